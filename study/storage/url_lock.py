"""The lock of a study at a URL, made of nothing but whole files and lists of them.

Every driver writes a claim of its own, `drivers/<token>.json`, and then lists the claims: the store shows what was written
before a list, so of two drivers at least one sees the other. Who sees a living claim of another withdraws its own. A claim is
written anew as a heartbeat and is dead when it is old by the store's own clock. Trials read their driver's claim.
"""

from __future__ import annotations

import json
import logging
import random
import time
from typing import Any

from study.storage.object_store import RemoteFolder, Stamp, StorageError
from study.storage.study_lock import StudyLock, StudyLockedError, has_process, parse_lock

CLAIMS = "drivers"
_TRIES = 3
_PAUSE_S = 1.0
_log = logging.getLogger(__name__)


def claim_name(token: str) -> str:
    """The file of the driver with this token."""
    return f"{CLAIMS}/{token}.json"


def read_claim(remote: RemoteFolder, token: str) -> dict[str, Any]:
    """A driver's claim; empty where there is none or it cannot be read."""
    try:
        return read_claim_strictly(remote, token)
    except StorageError:
        return {}


def read_claim_strictly(remote: RemoteFolder, token: str) -> dict[str, Any]:
    """As `read_claim`, but a store that does not answer is a StorageError."""
    try:
        return parse_lock(remote.read(claim_name(token)) or b"{}")
    except (ValueError, RecursionError):
        return {}


class UrlLock(StudyLock):
    """The right to work on the study at a URL."""

    heartbeat_s = 10.0
    stale_after_s = 90.0

    def __init__(self, remote: RemoteFolder) -> None:
        super().__init__()
        self._remote = remote
        self._claims: dict[str, Stamp] = {}

    def _acquire(self) -> None:
        holder: dict[str, Any] = {}
        for _ in range(_TRIES):
            if (other := self._try()) is None:
                return
            holder = other
            time.sleep(random.uniform(0.2, 1.0) * _PAUSE_S)  # two that start together may both have withdrawn
        raise StudyLockedError(self._remote.url, holder)

    def _try(self) -> dict[str, Any] | None:
        """Claim the study; where another driver claims it too, withdraw and return its claim."""
        self._publish()
        try:
            other = self._find_other()
        except BaseException:
            self._remote.delete(claim_name(self.token))
            raise
        if other is not None:
            self._remote.delete(claim_name(self.token))
        return other

    def _release(self) -> None:
        try:
            self._remote.delete(claim_name(self.token))
        except StorageError as error:
            _log.warning("%s; the study stays locked for %g s", error, self.stale_after_s)

    def _publish(self) -> None:
        self._remote.write(claim_name(self.token), json.dumps(self._content).encode())

    def _find_other(self) -> dict[str, Any] | None:
        """The living claim of another driver; dead ones are removed. Ages are by the time of a file written just now."""
        claims = self._remote.list(CLAIMS)
        now_ns = claims[claim_name(self.token)].time_ns
        for name, stamp in claims.items():
            if name == claim_name(self.token):
                continue
            content = read_claim(self._remote, name.rpartition("/")[2].removesuffix(".json"))
            lives = has_process(content)
            if lives is None:
                lives = now_ns - stamp.time_ns <= self.stale_after_s * 1e9
            if lives:
                return content
            self._remote.delete(name)
        return None

    def _renew(self) -> bool:
        try:
            if self._remote.read(claim_name(self.token)) is None or self._sees_heartbeat():
                return False
            self._publish()
        except StorageError as error:
            _log.warning("%s; the study's lock could not be renewed", error)
        return True

    def _sees_heartbeat(self) -> bool:
        """True where another driver keeps a claim too: this one was taken for dead just when it was about to renew its own."""
        claims = self._remote.list(CLAIMS)
        before, self._claims = self._claims, claims
        own = claim_name(self.token)
        return any(name in before and stamp != before[name] for name, stamp in claims.items() if name != own)
