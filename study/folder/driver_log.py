"""driver.log in a study's folder: what the drivers have said that ran as jobs of a cluster, one after the other.

The job's own log is on the disk of the cluster's head and goes with it; this one stays with the results.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any, TextIO, cast

from trainable.records.clock import utc_now

DRIVER_LOG = "driver.log"


class _Both:
    """A text stream whose text goes into a file, too; a file that cannot be written is left out."""

    def __init__(self, stream: IO[str], log: IO[str]) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._log.write(text)
            if "\n" in text:
                self._log.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def kept_log(folder: Path, command: str) -> Iterator[None]:
    """Until the block ends, what is printed is also appended to the study's log, under a line with the time and the command."""
    try:
        log = (folder / DRIVER_LOG).open("a", errors="replace")
    except OSError as error:
        print(f"{folder / DRIVER_LOG} is not written: {error.strerror}", file=sys.stderr)
        yield
        return
    with contextlib.suppress(OSError):
        log.write(f"--- {utc_now()} {command}\n")
    out, err = (cast(TextIO, _Both(stream, log)) for stream in (sys.stdout, sys.stderr))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        with contextlib.suppress(OSError):
            log.close()
