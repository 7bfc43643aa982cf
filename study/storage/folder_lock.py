"""One driver per study folder: the lock file `driver.json`, its heartbeat, and the stop signal that trials read from it.

The file is created exclusively, which network file systems honour too, and touched as a heartbeat, which needs no room
on a full disk. A lock is stale when its process is gone (same machine) or when its heartbeat is old by the file
system's own clock (another one). Trials poll the file: they end when it is gone, says that the driver is stopping,
belongs to another driver, or to a process of this machine that is no more. No clock of a machine is asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from trainable.files import write_json
from trainable.trial_state import utc_now

LOCK_FILE = "driver.json"
HEARTBEAT_S = 5.0
STALE_AFTER_S = 60.0
_MISSES_ALLOWED = 4  # a network file system may hide a file for a moment while it is replaced
_log = logging.getLogger(__name__)


class StudyLockedError(Exception):
    """Another driver works on the study; the message names its host, process id and start, from what its lock says."""

    def __init__(self, study: object, holder: dict[str, Any]) -> None:
        host, pid, since = (holder.get(key, "unknown") for key in ("host", "pid", "started_at"))
        super().__init__(
            f"{study}: another driver works on this study (host {host}, process {pid}, since {since}); wait for it or stop it"
        )


class StudyLock:
    """The right to work on one study folder; a context manager."""

    def __init__(self, study_folder: Path) -> None:
        self._path = study_folder / LOCK_FILE
        self._made_folder = False
        self._content = describe_driver()
        self.token = str(self._content["token"])
        self._writing = threading.Lock()
        self._lost = threading.Event()
        self._released = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="study-lock", daemon=True)

    def __enter__(self) -> StudyLock:
        self._made_folder = not self._path.parent.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not (self._create() or self._take_over()):
            time.sleep(0.01)  # the lock went away between the two
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heartbeat.join()
        if read_lock(self._path).get("token") == self.token:
            self._path.unlink(missing_ok=True)
        for claim in self._path.parent.glob(f".{LOCK_FILE}.*.claim"):
            claim.unlink(missing_ok=True)  # ours, and those of drivers that died
        if self._made_folder:
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()  # if it is empty: what was asked was refused

    @property
    def lost(self) -> bool:
        """True once the study folder was removed, or another driver took the lock of this one for stale."""
        return self._lost.is_set()

    def stop_trials(self) -> None:
        """Tell every trial of this driver to save its last epoch and end. Safe to call more than once."""
        self._content["stopping"] = True
        with self._writing:
            try:
                if not self._released.is_set() and read_lock(self._path).get("token") == self.token:
                    write_json(self._path, self._content)
            except OSError as error:
                _log.warning(
                    "%s: the trials cannot be told to stop (%s); they end with their driver", self._path, error
                )

    def _create(self) -> bool:
        return _create_exclusively(self._path, json.dumps(self._content))

    def _take_over(self) -> bool:
        """Replace a stale lock by ours; False where it is gone. Errors: StudyLockedError where it is not stale.

        Of several drivers that see the same stale lock one creates its claim file, named after the stale lock's token,
        and keeps it as long as it works; so none of the others can take the winner's lock for the stale one.
        """
        holder = read_lock(self._path)
        if not self._path.exists():
            return False
        digest = hashlib.sha256(repr(holder.get("token")).encode()).hexdigest()[:16]
        claim = self._path.with_name(f".{LOCK_FILE}.{digest}.claim")
        if not _is_stale(holder, self._path) or not _create_exclusively(claim):
            raise StudyLockedError(self._path.parent, holder)
        if read_lock(self._path).get("token") != holder.get("token"):
            claim.unlink(missing_ok=True)
            return False
        write_json(self._path, self._content)
        return True

    def _beat(self) -> None:
        misses = 0
        while not self._released.wait(HEARTBEAT_S):
            with self._writing:
                misses = 0 if self._touch() else misses + 1
            if misses == 2:
                self._lost.set()
                return

    def _touch(self) -> bool:
        """Give the lock file the file system's time now; False where it is not there or not ours any more."""
        try:
            if read_lock(self._path).get("token") != self.token:
                return False
            os.utime(self._path)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)  # a disk that is in trouble may recover
        return True


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


def _create_exclusively(path: Path, content: str = "") -> bool:
    """Create a file with this content; False where it exists already, unless it is a claim that was left behind."""
    if path.suffix == ".claim" and path.exists() and _age_s(path) > STALE_AFTER_S:
        path.unlink(missing_ok=True)  # its maker died while taking over
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return True


def _is_stale(holder: dict[str, Any], path: Path) -> bool:
    alive = has_process(holder)
    return _age_s(path) > STALE_AFTER_S if alive is None else not alive


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


def _age_s(path: Path) -> float:
    """Age of the file by the clock of its file system, so that hosts with different clocks agree."""
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.probe")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where there is no such process (a zombie has ended too)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def read_lock(path: Path) -> dict[str, Any]:
    """The lock's content; an unreadable or half-written one counts as held by nobody known."""
    try:
        return read_lock_strictly(path)
    except OSError:
        return {}


def read_lock_strictly(path: Path) -> dict[str, Any]:
    """As `read_lock`, but a file that is there and cannot be read for a moment is an OSError."""
    problem: OSError | None = None
    for _ in range(3):
        try:
            content = json.loads(path.read_bytes())
            return content if isinstance(content, dict) else {}
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            problem = None
        except OSError as error:
            problem = error
        time.sleep(0.05)
    if problem is not None:
        raise problem
    return {}
