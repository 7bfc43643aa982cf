"""Ctrl-C and its kin: the first signal asks the trials to save and end, a second one ends the driver. Knows no Ray."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from study.storage.study_lock import StudyLock

INTERRUPT_GRACE_S = 8.0
REMOTE_GRACE_S = 30.0  # trials elsewhere hear of it later, and may have to put what they save over a network


class Interruption:
    """Whether and when the user asked to stop, and whether the trials that ran then have ended."""

    def __init__(self, lock: StudyLock, grace_s: float = INTERRUPT_GRACE_S) -> None:
        self.lock = lock
        self._grace_s = grace_s
        self._awaited: set[str] | None = None
        self.requested_at: float | None = None

    def request(self) -> None:
        """Ask all trials to save and end."""
        if self.requested_at is None:
            self.requested_at = time.monotonic()
            threading.Thread(target=self.lock.stop_trials, name="stop-trials").start()

    def observe_running(self, trials: set[str]) -> None:
        """The trials that run now; those of the first call are waited for, later starts are not."""
        self._awaited = trials if self._awaited is None else self._awaited & trials

    def over(self) -> bool:
        """True when the trials have ended, or had their time to."""
        if self.requested_at is None:
            return False
        return self._awaited == set() or time.monotonic() - self.requested_at > self._grace_s


@contextmanager
def interrupted_by_signals(interruption: Interruption) -> Iterator[Callable[[], None]]:
    """Signals ask the trials to save and end; a second one ends the driver at once. Yields what sets the handlers again."""

    def on_signal(number: int, frame: Any) -> None:
        if interruption.requested_at is not None:
            raise KeyboardInterrupt
        interruption.request()

    with _handled_by(on_signal) as set_handlers:
        yield set_handlers


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, before and after the trials too."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled_by(interrupt):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, Any], None]) -> Iterator[Callable[[], None]]:
    """SIGINT, SIGTERM and, unless nohup has switched it off, the SIGHUP of a terminal that was closed go to `handler`."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}

    def set_handlers() -> None:
        for number in before:
            signal.signal(number, handler)

    set_handlers()
    try:
        yield set_handlers
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
