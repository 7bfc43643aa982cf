"""The lock of a study in a folder: the file `driver.json`.

The file is created exclusively, which network file systems honour too, and touched as a heartbeat, which needs no room
on a full disk. Its age is by the file system's own clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from study.storage.study_lock import StudyLock, StudyLockedError, has_process, parse_lock
from trainable.files import write_json

LOCK_FILE = "driver.json"


class FolderLock(StudyLock):
    """The right to work on one study folder."""

    heartbeat_s = 5.0
    stale_after_s = 60.0

    def __init__(self, study_folder: Path) -> None:
        self._path = study_folder / LOCK_FILE
        super().__init__()
        self._made_folder = False
        self._misses = 0

    def _acquire(self) -> None:
        self._made_folder = not self._path.parent.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not (_create_exclusively(self._path, json.dumps(self._content)) or self._take_over()):
            time.sleep(0.01)  # the lock went away between the two

    def _release(self) -> None:
        if read_lock(self._path).get("token") == self.token:
            self._path.unlink(missing_ok=True)
        for claim in self._path.parent.glob(f".{LOCK_FILE}.*.claim"):
            claim.unlink(missing_ok=True)  # ours, and those of drivers that died
        if self._made_folder:
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()  # if it is empty: what was asked was refused

    def _publish(self) -> None:
        if read_lock(self._path).get("token") == self.token:
            write_json(self._path, self._content)

    def _renew(self) -> bool:
        self._misses = 0 if self._touch() else self._misses + 1
        return self._misses < 2

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

    def _touch(self) -> bool:
        """Give the lock file the file system's time now; False where it is not there or not ours any more."""
        try:
            if read_lock(self._path).get("token") != self.token:
                return False
            os.utime(self._path)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)  # a disk that is in trouble may recover
        return True


def _create_exclusively(path: Path, content: str = "") -> bool:
    """Create a file with this content; False where it exists already, unless it is a claim that was left behind."""
    if path.suffix == ".claim" and path.exists() and _age_s(path) > FolderLock.stale_after_s:
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
    return _age_s(path) > FolderLock.stale_after_s if alive is None else not alive


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


def read_lock(path: Path) -> dict[str, Any]:
    """The lock's content; an unreadable or half-written one counts as held by nobody known."""
    try:
        return read_lock_strictly(path)
    except OSError:
        return {}


def read_lock_strictly(path: Path) -> dict[str, Any]:
    """As `read_lock`, but a file that is there and cannot be read for a moment is an OSError."""
    for is_last in (False, False, True):
        try:
            return parse_lock(path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError:
            if is_last:
                raise
        except (ValueError, RecursionError):  # half written
            pass
        time.sleep(0.05)
    return {}
