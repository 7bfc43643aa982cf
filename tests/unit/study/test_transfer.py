"""A study folder through lines of text and back: what was sent arrives, and nothing else is let in."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.records.study_folder import StudyFolder
from analysis.report.page import write_report
from analysis.results.formats import write_tables
from analysis.search import importances
from analysis.sources.pull import pull
from analysis.tables import build_tables
from study import pull as pull_command
from study.service import remote
from study.service.connection import STALL_TIMEOUT_S
from study.service.transfer import LINE_BYTES, TransferError, receive_folder, send_folder
from tests.support.search_studies import write_search_study
from tests.support.studies import build_cell, write_synthetic_study


def write_study(folder: Path) -> dict[str, bytes]:
    files = {
        "study.json": b"{}", "epochs.parquet": bytes(range(256)) * 1000, "samples.npz": b"", "telling_images.npz": b"",
        "report/tables/comparison.csv": b"a,b\n", "report/tables/comparison.md": b"|a|\n",
    }  # fmt: skip
    ours = {
        "trials/0/checkpoint.pt": b"x" * 10,
        "driver.json": b"{}",
        "wandb_project.txt": b"mine",
        "report/tables/comparison.html.tmp": b"half",
        "ray/state.json": b"{}",
        "report/index.html": b"<p>",
    }
    for name, content in {**files, **ours}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


def sent_lines(folder: Path) -> list[str]:
    lines: list[str] = []
    send_folder(folder, lines.append)
    return lines


def arrived(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [1, 7, 1000, 10**9])
def test_what_analysis_reads_arrives_however_the_lines_are_cut(tmp_path: Path, size: int) -> None:
    files = write_study(tmp_path / "there")
    text = "a line of Ray's\n" + "\n".join(sent_lines(tmp_path / "there")) + "\nmore of it\n"
    (tmp_path / "here").mkdir()
    num_bytes = receive_folder((text[i : i + size] for i in range(0, len(text), size)), tmp_path / "here")
    assert arrived(tmp_path / "here") == files
    assert num_bytes > sum(map(len, files.values()))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = write_search_study(tmp_path_factory.mktemp("studies") / "searched", num_trials=8, top_k=1)
    write_tables(build_tables(folder, ["comparison"]), folder)
    return folder


def test_a_search_arrives_so_that_its_report_can_be_made(
    searched: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importances, "NUM_RESAMPLES", 3)  # they take seconds
    receive_folder(["\n".join(sent_lines(searched.path))], tmp_path)
    assert (tmp_path / "search.journal").read_bytes() == searched.search_journal.read_bytes()
    assert write_report(StudyFolder(tmp_path)).is_file()


def test_a_pulled_study_has_nothing_of_it_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [build_cell(name, model="mynet:build", model_source=name * 16, epochs=1, width=4) for name in "ab"]
    there, here, marker = tmp_path / "there" / "study", tmp_path / "here", tmp_path / "imported"
    write_synthetic_study(there, cells=cells, seeds=[0])
    here.mkdir()
    for place in (there, here, tmp_path):
        for name in ("mynet.py", "sitecustomize.py"):
            (place / name).write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.chdir(here)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)  # one of another test
    text = ["\n".join(sent_lines(there))]
    asked = SimpleNamespace(
        submit=lambda *args, **more: None, follow_log=lambda job, stall_s: text, stop=lambda job: None,
        wait=lambda job, limit_s: None, forget=lambda job: None,
    )  # fmt: skip
    monkeypatch.setattr(pull_command, "connect_as_asked", lambda options: asked)
    assert pull_command.main(["study", "--results", str(there.parent), "--to", str(here / "study"), "--no-report"]) == 0
    assert (here / "study" / "trials.parquet").exists()
    assert not marker.exists()
    assert "mynet" not in sys.modules


def test_the_same_files_are_sent_as_are_fetched_from_a_folder(searched: StudyFolder, tmp_path: Path) -> None:
    for name in ("x.txt", "study.copy.json", "report/tables/x.png", "report/tables/.hidden.csv", "wandb_project.txt"):
        (searched.path / name).write_text("not to be fetched")
    (tmp_path / "sent").mkdir()
    receive_folder(["\n".join(sent_lines(searched.path))], tmp_path / "sent")
    assert arrived(tmp_path / "sent") == arrived(pull(str(searched.path), tmp_path / "fetched").path)


def test_a_long_fetch_from_a_url_is_not_silent_and_what_it_says_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pull_slowly(source: str, to: Path) -> StudyFolder:
        time.sleep(0.5)
        return StudyFolder(Path(source))

    assert remote.SIGN_OF_LIFE_S * 3 < STALL_TIMEOUT_S
    files = write_study(tmp_path / "there")
    monkeypatch.setattr(remote, "pull", pull_slowly)
    monkeypatch.setattr(remote, "SIGN_OF_LIFE_S", 0.05)
    send_folder(remote._fetch(str(tmp_path / "there"), tmp_path / "copy"), print)
    said = capsys.readouterr().out
    assert len(said.partition("@")[0].splitlines()) >= 3
    (tmp_path / "here").mkdir()
    receive_folder([said], tmp_path / "here")
    assert arrived(tmp_path / "here") == files


def test_no_line_is_long(tmp_path: Path) -> None:
    write_study(tmp_path)
    assert max(map(len, sent_lines(tmp_path))) <= LINE_BYTES * 4 / 3 + 20


@given(st.data())
def test_a_damaged_transfer_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("there")
    write_study(folder)
    lines = sent_lines(folder)
    damaged = list(lines)
    place = data.draw(st.integers(0, len(lines) - 1))
    if data.draw(st.booleans()):
        del damaged[place]
    else:
        line = damaged[place]
        cut = data.draw(st.integers(len("@study-data "), len(line) - 1))
        damaged[place] = line[:cut]
    with pytest.raises(TransferError):
        receive_folder(["\n".join(damaged)], tmp_path_factory.mktemp("here"))


def archive_lines(members: Iterable[tarfile.TarInfo]) -> list[str]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    content = buffer.getvalue()
    return [
        f"@study-data {base64.b64encode(content).decode()}",
        f"@study-end {len(content)} {hashlib.sha256(content).hexdigest()}",
    ]


@pytest.mark.parametrize(
    "name", ["../escape", "/etc/escape", "trials/0/trial.json", "report/index.html", "study.json/../x"]
)
def test_a_file_that_is_none_of_a_study_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TransferError, match="no file of a study"):
        receive_folder(["\n".join(archive_lines([tarfile.TarInfo(name)]))], tmp_path)
    assert arrived(tmp_path) == {}


def test_a_link_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("study.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(TransferError, match="no file of a study"):
        receive_folder(["\n".join(archive_lines([link]))], tmp_path)


def test_reasons_reach_the_user(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="absent: no study there"):
        receive_folder(["\n".join(sent_lines(tmp_path / "absent"))], tmp_path)
    with pytest.raises(TransferError, match=r"no whole study .*No module named study"):
        receive_folder(["Traceback\n", "ModuleNotFoundError: No module named study\n"], tmp_path)
