"""The command line of the analysis: exit statuses, one clear line for bad input, claims."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.records.study_folder import StudyFolder
from tests.unit.analysis.figure_studies import small_cells, write_small_study

CLAIMS = """
title = "A paper"
[[claim]]
id = "gap"
section = "1"
statement = "training is ahead of testing"
query = { kind = "metric", metric = "final_test_accuracy", cell = { batch_size = 64 } }
expect = { value = VALUE, tolerance = 0.02 }
"""


def write_study(path: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> StudyFolder:
    """A study without the pictures that take long."""
    folder = write_small_study(path, seeds=seeds, layers=False, epochs=2, cells=small_cells(2)[:1]).folder
    folder.records("model").unlink()
    return folder


@pytest.mark.parametrize(("value", "status"), [(0.93, 0), (0.5, 1)])
def test_claims_decide_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float, status: int
) -> None:
    folder = write_study(tmp_path / "study")
    claims = tmp_path / "claims.toml"
    claims.write_text(CLAIMS.replace("VALUE", str(value)))
    assert main([str(folder.path), "--check-claims", "--claims", str(claims)]) == status
    output = capsys.readouterr().out
    assert str(folder.report / "index.html") in output
    assert ("contradicted: gap: training is ahead of testing" in output) == bool(status)
    assert "training is ahead of testing" in (folder.report / "index.html").read_text()


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "study")
    bad = tmp_path / "bad.toml"
    bad.write_text("[[claim]\n")
    damaged = write_study(tmp_path / "damaged")
    damaged.records("epochs").write_bytes(b"PAR1 is not enough")
    plain_file = tmp_path / "file"
    plain_file.write_text("")
    for arguments, named in (
        ([str(tmp_path / "nowhere")], "nowhere"),
        ([str(tmp_path)], "study.json"),
        ([str(plain_file)], "file"),
        ([str(damaged.path)], "epochs.parquet"),
        ([str(folder.path), "--claims", str(bad)], "bad.toml"),
        ([str(folder.path), "--claims", str(tmp_path / "missing.toml")], "missing.toml"),
    ):
        assert main(arguments) == 2
        complaint = capsys.readouterr().err
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1
        assert named in complaint


def test_pull_copies_a_study_that_can_be_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "study")
    copy = tmp_path / "copy"
    assert main(["pull", str(folder.path), "--to", str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy)
    assert StudyFolder(copy).read_records("epochs").equals(folder.read_records("epochs"))
    assert main(["pull", str(tmp_path / "nowhere"), "--to", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["pull", str(folder.path)])


def test_compare_merges_cells_or_says_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = small_cells(2)
    studies = [
        str(write_small_study(tmp_path / cell.label, cells=[cell], layers=False).folder.path)
        for cell in (first, second)
    ]
    assert main(["compare", *studies]) == 0
    output = capsys.readouterr().out
    assert "Comparison of the cells" in output
    assert "Pairwise comparison" in output
    assert "Experiment 1" in output
    assert "Experiment 2" in output
    other = write_small_study(tmp_path / "other", cells=[second], layers=False, data={"fingerprint": "elsewhere"})
    assert main(["compare", studies[0], str(other.folder.path)]) == 2
    assert "same data" in capsys.readouterr().err
    assert main(["compare", studies[0]]) == 2
    assert "two studies" in capsys.readouterr().err
    assert main(["compare", *studies, "--to", str(tmp_path / "merged")]) == 0
    assert "Experiment 2" in (tmp_path / "merged" / "report" / "index.html").read_text()


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys, analysis.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'numpy', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--claims" in done.stdout
