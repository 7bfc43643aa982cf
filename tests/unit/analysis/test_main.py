"""The command line of the analysis: exit statuses, one clear line for bad input, claims, watching."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.__main__ import main
from analysis.records.study_folder import StudyFolder
from analysis.report.watch import watch_report
from tests.unit.analysis.figure_studies import rewrite, small_cells, write_small_study

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
        ([str(tmp_path / "nowhere"), "--watch", "1"], "nowhere"),
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


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "1.5", "100000"])
def test_interval_of_watching_is_checked(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["somewhere", "--watch", seconds])
    assert ended.value.code == 2
    assert "whole number of seconds" in capsys.readouterr().err


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys, analysis.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'numpy', 'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--watch" in done.stdout


def test_watching_rewrites_the_page_until_the_study_ends(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0,))
    statuses = {"running": pa.array(["running"], pa.string()), "completed": pa.array(["completed"], pa.string())}
    rewrite(folder, "trials", status=statuses["running"])
    said: list[str] = []
    watching = threading.Thread(target=watch_report, args=(folder, 1), kwargs={"say": said.append}, daemon=True)
    watching.start()
    wait_until(lambda: len(said) == 1)
    page = folder.report / "index.html"
    assert 'http-equiv="refresh" content="1"' in page.read_text()
    good = folder.records("epochs").read_bytes()
    folder.records("epochs").write_bytes(good[:100])  # as if in the middle of being replaced
    wait_until(lambda: len(said) == 2)
    assert said[1].startswith("waiting: ")
    assert "epochs.parquet" in said[1]
    folder.records("epochs").write_bytes(good)
    rewrite(folder, "trials", status=statuses["completed"])
    watching.join(60)
    assert not watching.is_alive()
    assert 'http-equiv="refresh"' not in page.read_text()
    assert said[-1] == "the study does not run any more"


def test_watching_gives_up_on_a_study_that_stands_still(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0,))
    rewrite(folder, "trials", status=pa.array(["running"], pa.string()))
    said: list[str] = []
    watch_report(folder, 1, say=said.append, max_idle_s=0.5)
    assert said[-1] == "nothing has changed for too long: gave up"
    assert 'http-equiv="refresh"' not in (folder.report / "index.html").read_text()


def wait_until(condition: object, timeout_s: float = 60.0) -> None:
    """Wait for a condition, at most so long."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
