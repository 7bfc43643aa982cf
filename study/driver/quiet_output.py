"""Output that may lose its reader, such as `tee` after Ctrl-C or a terminal that is closed. Knows nothing of studies."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any, TextIO, cast


class QuietOutput:
    """A text stream that drops what cannot be written: the reader of a pipe has gone, or the terminal was closed.

    Else rich would end the driver, before its trials have saved.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write, or do not."""
        with contextlib.suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or do not."""
        with contextlib.suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def quiet_output() -> Iterator[None]:
    """What is printed to a reader that has gone is dropped: first of all trials are saved."""
    output = sys.stdout
    try:
        with redirect_stdout(cast(TextIO, QuietOutput(output))):
            yield
    finally:
        try:
            output.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # for the interpreter's own flush at its end
