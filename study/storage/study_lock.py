"""One driver per study: what its lock says, its heartbeat, and the stop signal that trials read from it.

Where the lock lies, and how one of several drivers gets it, is in folder_lock.py and url_lock.py. A lock is stale when its
process is gone (same machine) or when its heartbeat is old by the clock of the storage (another one). Trials poll the lock: they
end when it is gone, says that the driver is stopping, belongs to another driver, or to a process of this machine that is no
more. No clock of a machine is asked.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

from trainable.records.clock import utc_now

_MISSES_ALLOWED = 4  # a network file system may hide a file for a moment while it is replaced
_log = logging.getLogger(__name__)


class StudyLockedError(Exception):
    """Another driver works on the study; the message names its host, process id and start, from what its lock says."""

    def __init__(self, study: object, holder: dict[str, Any]) -> None:
        host, pid, since = (holder.get(key, "unknown") for key in ("host", "pid", "started_at"))
        super().__init__(
            f"{study}: another driver works on this study (host {host}, process {pid}, since {since}); wait for it or stop it"
        )


class StudyLock(ABC):
    """The right to work on one study; a context manager, which raises StudyLockedError where another driver works on it.

    What subclasses do: `_acquire`, `_release`, `_publish` the content where trials read it, `_renew` the heartbeat.
    """

    heartbeat_s: float
    stale_after_s: float

    def __init__(self) -> None:
        self._content = describe_driver()
        self.token = str(self._content["token"])
        self._writing = threading.Lock()
        self._lost = threading.Event()
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="study-lock", daemon=True)

    def __enter__(self) -> Self:
        self._acquire()
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heartbeat.join()
        self._release()

    @property
    def lost(self) -> bool:
        """True once the study was removed, or another driver took the lock of this one for stale."""
        return self._lost.is_set()

    def stop_trials(self) -> None:
        """Tell every trial of this driver to save its last epoch and end. Safe to call more than once."""
        self._content["stopping"] = True
        with self._writing:
            try:
                if not self._released.is_set():
                    self._publish()
            except OSError as error:
                _log.warning("the trials cannot be told to stop, they end with their driver: %s", error)

    def _beat(self) -> None:
        while not self._released.wait(self.heartbeat_s):
            with self._writing:
                if not self._renew():
                    self._lost.set()
                    return

    @abstractmethod
    def _acquire(self) -> None:
        """Get the lock. Errors: StudyLockedError."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of it, if it is still this driver's."""

    @abstractmethod
    def _publish(self) -> None:
        """Write the content where trials read it. Errors: OSError."""

    @abstractmethod
    def _renew(self) -> bool:
        """Show that this driver lives; False where its lock is lost. Storage that does not answer loses no lock."""


def describe_driver() -> dict[str, Any]:
    """What the lock of a new driver says: who it is, a token of its own, and that its trials are to run."""
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "started_at": utc_now(),
        "token": secrets.token_hex(8),
        "stopping": False,
    }


def parse_lock(content: bytes) -> dict[str, Any]:
    """What a lock says; empty where it is none. Errors: ValueError, RecursionError where it is not JSON."""
    said = json.loads(content)
    return said if isinstance(said, dict) else {}


def watch_driver(
    read: Callable[[], dict[str, Any]], token: str, stop: threading.Event, interval_s: float = 0.5
) -> Callable[[], None]:
    """Set `stop` as soon as what is read says that the driver with `token` is stopping or gone.

    `read` returns the content of its lock, empty where there is none; while it raises OSError nothing is known, and the
    trials go on. Returns a function that ends the watch.
    """
    ended = threading.Event()

    def watch() -> None:
        missed = 0
        while not ended.wait(interval_s):
            try:
                content = read()
            except OSError:
                continue
            ours = content.get("token") == token and has_process(content) is not False
            missed = 0 if ours else missed + 1
            if missed == _MISSES_ALLOWED or (ours and content.get("stopping") is not False):
                stop.set()
                return

    threading.Thread(target=watch, name="watch-driver", daemon=True).start()
    return ended.set


def has_process(holder: dict[str, Any]) -> bool | None:
    """Whether the process that wrote the lock lives; None where this machine cannot know."""
    pid, start = holder.get("pid"), holder.get("process_start")
    if holder.get("machine") != _machine() or not isinstance(pid, int) or not isinstance(start, str):
        return None
    return _process_start(pid) == start


@cache
def _machine() -> str:
    """What process ids mean the same in: this boot of this machine, and in it this namespace of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown {secrets.token_hex(8)}"


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where there is no such process (a zombie has ended too)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
