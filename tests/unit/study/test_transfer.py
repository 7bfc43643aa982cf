"""A study folder through lines of text and back: what was sent arrives, and nothing else is let in."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.service.transfer import LINE_BYTES, TransferError, receive_folder, send_folder


def write_study(folder: Path) -> dict[str, bytes]:
    files = {
        "study.json": b"{}", "epochs.parquet": bytes(range(256)) * 1000, "samples.npz": b"",
        "report/tables/comparison.csv": b"a,b\n", "report/tables/comparison.md": b"|a|\n",
    }  # fmt: skip
    ours = {
        "trials/0/checkpoint.pt": b"x" * 10,
        "driver.json": b"{}",
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
