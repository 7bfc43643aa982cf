"""Atomic writes: a reader or a crash sees the old file or the new one, never a part. Knows nothing of what it writes."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A new file that replaces the one at `path` when the block ends: temporary file, fsync, rename, fsync of the folder.

    The folder is created where it is missing. Errors: OSError; after any exception the old file is untouched and no
    temporary one is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, content: Any) -> None:
    """Replace the file at `path` by `content` (bytes or any buffer), as `open_atomically`."""
    with open_atomically(path) as file:
        file.write(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step."""
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
