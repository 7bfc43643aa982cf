"""A folder of files at a URL (s3://, gs://, ... whatever pyarrow or fsspec can open): whole files in, whole files out.

A file is replaced in one step, as object stores do, and a list shows what was written before it. Credentials come from where
the store's client looks for them on the machine that asks; none is kept or passed on. Knows nothing of studies.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from analysis.sources.pull import open_source
from trainable.errors import first_line

_TRIES = 4
_COPIED_AT_ONCE = 16 * 2**20
_FIRST_PAUSE_S = 0.5
_Result = TypeVar("_Result")


class StorageError(OSError):
    """The store refused or did not answer; the message names the file and the reason."""


@dataclass(frozen=True)
class Stamp:
    """What tells one version of a file from another without reading it."""

    size: int
    time_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """That of a file of this machine."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class RemoteFolder:
    """The folder at `url`; opened where it is first used, so it can be sent to other machines."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}  # not the opened one, which may know credentials

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_source(self.url)

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none. Errors: StorageError."""

        def read(files: Any, path: str) -> bytes | None:
            try:
                with files.open_input_stream(path) as stream:
                    return bytes(stream.readall())
            except FileNotFoundError:
                return None

        return self._try(name, read)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file. Errors: StorageError."""

        self._write(name, lambda stream: stream.write(content))

    def write_file(self, name: str, source: Path) -> None:
        """Replace a file by one of this machine, however large. Errors: StorageError."""

        def copy(stream: Any) -> None:
            with source.open("rb") as file:
                shutil.copyfileobj(file, stream, _COPIED_AT_ONCE)

        self._write(name, copy)

    def _write(self, name: str, fill: Callable[[Any], object]) -> None:
        def write(files: Any, path: str) -> None:
            # In a folder, unlike in an object store, a file that is being written can be seen.
            local = files.type_name == "local"
            if local:
                files.create_dir(path.rpartition("/")[0])
            made = f"{path}.{secrets.token_hex(4)}.tmp" if local else path
            try:
                with files.open_output_stream(made) as stream:
                    fill(stream)
            except BaseException:  # closing it has published what there was of it
                with contextlib.suppress(OSError, pa.ArrowException):
                    files.delete_file(made)
                raise
            if local:
                files.move(made, path)

        self._try(name, write)

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone already is fine. Errors: StorageError."""

        def delete(files: Any, path: str) -> None:
            try:
                files.delete_file(path)
            except FileNotFoundError:
                return

        self._try(name, delete)

    def list(self, folder: str = "") -> dict[str, Stamp]:
        """The files below a folder, however deep, by their names in the whole. Errors: StorageError."""

        def find(files: Any, path: str) -> dict[str, Stamp]:
            start = len(self._opened[1]) + 1
            selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
            return {
                info.path[start:]: Stamp(info.size, info.mtime_ns or 0)
                for info in files.get_file_info(selector)
                if info.type == fs.FileType.File
            }

        return self._try(folder, find)

    def _try(self, name: str, do: Callable[[Any, str], _Result]) -> _Result:
        """Try a few times: a store that is busy for a moment costs no trial."""
        for attempt in range(_TRIES):
            try:
                files, root = self._opened
                return do(files, f"{root}/{name}".rstrip("/"))
            except (OSError, pa.ArrowException) as error:
                if attempt == _TRIES - 1:
                    reason = first_line(error, 300)
                    raise StorageError(f"{self.url}/{name}: {reason}") from error
                time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise AssertionError("the last try returns or raises")
