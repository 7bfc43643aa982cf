"""A line that says what is waited for, wherever nothing else has been said for two seconds. Knows nothing of studies.

On a terminal it stays in its place and counts the seconds; elsewhere it is a line of its own, after 2, 4, 8, ... s of waiting for
the same. It goes to stderr, so that what a command prints stays as it is.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from types import TracebackType
from typing import IO

SILENCE_S = 2.0
_TICK_S = 0.2
_ERASE = "\r\x1b[K"  # what a terminal takes for an empty line


class WaitingLine:
    """Shows `text` while the block runs and nothing is said; `say` changes it, `hide` makes room for other output.

    With `terminal_only` nothing is said elsewhere, for a wait that has no end.
    """

    def __init__(self, text: str, *, stream: IO[str] | None = None, terminal_only: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._in_place = self._stream.isatty()
        self._quiet = terminal_only and not self._in_place
        self._text = text
        self._shown = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick_until_ended, name="waiting-line", daemon=True)
        self._restart()

    def __enter__(self) -> WaitingLine:
        self._restart()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.hide()

    def say(self, text: str) -> None:
        """What is waited for from now on; shown at once where it is something new."""
        with self._lock:
            if text == self._text:
                return
            self._text = text
            self._restart()
            self._show(0)

    def hide(self) -> None:
        """Something else is about to be printed: take the line away until there is silence again."""
        with self._lock:
            if self._shown:
                self._write(_ERASE)
                self._shown = False
            self._restart()

    def _restart(self) -> None:
        self._since = time.monotonic()
        self._due_s = SILENCE_S

    def _tick_until_ended(self) -> None:
        while not self._ended.wait(_TICK_S):
            with self._lock:
                waited_s = time.monotonic() - self._since
                if waited_s >= self._due_s:
                    self._due_s = self._due_s + 1 if self._in_place else 2 * self._due_s
                    self._show(waited_s)

    def _show(self, waited_s: float) -> None:
        if self._quiet:
            return
        line = self._text + (f" ({waited_s:.0f} s)" if waited_s >= SILENCE_S else "")
        self._write(f"{_ERASE}{line}" if self._in_place else f"{line}\n")
        self._shown = self._in_place

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone: what is waited for goes on
            self._stream.write(text)
            self._stream.flush()
