"""A study folder as lines of text, and back: what the Jobs API can carry is what a job prints.

The files go through one tar stream in base64, a line at a time, so neither side ever holds more than a line; the last line
has the stream's size and hash. Every line has a mark, since Ray prints into the same log. Knows no Ray.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

LINE_BYTES = 48 * 1024
_DATA, _END, ERROR_MARK = "@study-data ", "@study-end ", "@study-error "
# The files that analysis.pull fetches, no others: a test compares the two.
_NAME = re.compile(
    r"(study\.json|samples\.npz|telling_images\.npz|search\.journal|[a-z]+\.parquet|report/tables/[a-z][a-z0-9_]*\.(csv|md|tex|html))"
)


class TransferError(Exception):
    """The folder did not arrive; the message says why."""


def send_folder(folder: Path, write_line: Callable[[str], object]) -> None:
    """Send what analysis reads of a study folder: records, samples, search and tables, neither checkpoints nor Ray's files."""
    if not (folder / "study.json").is_file():
        write_line(f"{ERROR_MARK}{folder}: no study there")
        return
    sink = _LineSink(write_line)
    with tarfile.open(fileobj=sink, mode="w|", bufsize=LINE_BYTES) as archive:  # type: ignore[call-overload]
        for name in _list_files(folder):
            with (folder / name).open("rb") as file:  # once open, a file that is replaced stays whole
                archive.addfile(archive.gettarinfo(arcname=name, fileobj=file), file)
    write_line(f"{_END}{sink.num_bytes} {sink.digest.hexdigest()}")


def receive_folder(chunks: Iterable[str], folder: Path) -> int:
    """Write the files that `send_folder` sent into an empty folder; `chunks` may break lines anywhere. Returns the bytes.

    Errors: TransferError when something is missing, damaged or not a file of a study.
    """
    archive_path = folder / ".incoming.tar"
    try:
        with archive_path.open("wb") as archive:
            num_bytes = _receive_archive(chunks, archive)
        with tarfile.open(archive_path) as archive_file:
            for member in archive_file:
                if not (member.isfile() and _NAME.fullmatch(member.name)):
                    raise TransferError(f"{member.name!r} is no file of a study")
                archive_file.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        raise TransferError(f"what came is damaged ({error})") from error
    finally:
        archive_path.unlink(missing_ok=True)
    return num_bytes


class _LineSink:
    """A file-like object that writes what it is given as marked lines."""

    def __init__(self, write_line: Callable[[str], object]) -> None:
        self._write_line = write_line
        self.num_bytes = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), LINE_BYTES):
            part = bytes(data[start : start + LINE_BYTES])
            self._write_line(_DATA + base64.b64encode(part).decode())
            self.num_bytes += len(part)
            self.digest.update(part)
        return len(data)


def _list_files(folder: Path) -> Iterator[str]:
    for path in sorted([*folder.iterdir(), *(folder / "report" / "tables").glob("*")]):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _NAME.fullmatch(name):
            yield name


def _receive_archive(chunks: Iterable[str], archive: IO[bytes]) -> int:
    digest, num_bytes = hashlib.sha256(), 0
    other = ""
    for line in _split_lines(chunks):
        if line.startswith(_DATA):
            try:
                part = base64.b64decode(line.removeprefix(_DATA), validate=True)
            except ValueError as error:
                raise TransferError("what came is damaged") from error
            archive.write(part)
            digest.update(part)
            num_bytes += len(part)
        elif line.startswith(ERROR_MARK):
            raise TransferError(line.removeprefix(ERROR_MARK))
        elif line.startswith(_END):
            if line.removeprefix(_END) != f"{num_bytes} {digest.hexdigest()}":
                raise TransferError("what came is not what was sent; try again")
            return num_bytes
        elif line.strip():
            other = line.strip()
    raise TransferError(f"the cluster sent no whole study{f' ({other[:200]})' if other else ''}")


def _split_lines(chunks: Iterable[str]) -> Iterator[str]:
    rest: list[str] = []
    for chunk in chunks:
        *complete, last = chunk.split("\n")
        for line in complete:
            yield "".join([*rest, line])
            rest = []
        rest.append(last)
    yield "".join(rest)
