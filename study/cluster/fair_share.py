"""How many trials a study on a cluster may run at once when other studies run there too.

The drivers of a cluster know each other through one small actor on its head, to which each announces itself every few
seconds; who falls silent is forgotten. Studies with a limit of their own (--max-concurrent) get that, the others share the
rest equally. A smaller share takes effect as trials end: none is taken away. The actor ends with the last study; that of a
driver that was killed stays until a study that runs later ends. Imports Ray only where a share is followed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

_ACTOR, _NAMESPACE = "study-shares", "studies"
_ON_HEAD = {"node:__internal_head__": 0.001}
_INTERVAL_S = 5.0
_SILENT_AFTER_S = 30.0
_ANSWER_TIMEOUT_S = 20.0
_log = logging.getLogger(__name__)


def divide_slots(studies: Mapping[str, int | None], slots: int) -> dict[str, int]:
    """How many trials each study may run at once on a cluster with room for so many; at least one each.

    `studies` maps their tokens, in the order in which they came, to their own limits; a slot that cannot be divided goes to
    who came first.
    """
    without = [token for token, limit in studies.items() if limit is None]
    rest = max(0, slots - sum(limit for limit in studies.values() if limit is not None))
    shares = {token: rest // len(without) + (slot < rest % len(without)) for slot, token in enumerate(without)}
    return {token: max(1, shares[token] if limit is None else limit) for token, limit in studies.items()}


class Shares:
    """The studies of a cluster, as the actor on its head keeps them."""

    def __init__(self) -> None:
        self._limits: dict[str, int | None] = {}
        self._heard_at: dict[str, float] = {}

    def announce(self, token: str, limit: int | None) -> dict[str, int | None]:
        """Note that this study runs, with its own limit; returns all that do, oldest first."""
        self._limits[token], self._heard_at[token] = limit, time.monotonic()
        self._forget_silent()
        return dict(self._limits)

    def leave(self, token: str) -> bool:
        """Note that this study has ended; True where others still run."""
        self._heard_at[token] = -math.inf
        self._forget_silent()
        return bool(self._limits)

    def _forget_silent(self) -> None:
        now = time.monotonic()
        for token, heard_at in list(self._heard_at.items()):
            if now - heard_at > _SILENT_AFTER_S:
                del self._heard_at[token]
                self._limits.pop(token, None)


class SharesActor(Shares):
    """The same as an actor, which ends when the last study leaves.

    It answers one call after the other. A study that has announced itself before keeps it; one whose call comes too late gets
    an error, and a new actor with its next call.
    """

    def leave(self, token: str) -> bool:
        """As in Shares; where no other study runs there is no answer."""
        if super().leave(token):
            return True
        from ray.actor import exit_actor

        exit_actor()  # type: ignore[no-untyped-call]
        return False


class FairShare:
    """The share of one study, followed while its trials run; a context manager.

    `count_slots` says for how many trials of this study the cluster has room now. Where that or the other studies cannot be
    found out the last answer holds: first that the study is alone.
    """

    def __init__(self, token: str, limit: int | None, count_slots: Callable[[], int]) -> None:
        self._token = token
        self._limit = limit
        self._count_slots = count_slots
        self._actor: Any = None
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="fair-share", daemon=True)
        self.trials = max(1, limit if limit is not None else count_slots())

    def __enter__(self) -> FairShare:
        self._update()
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._follower.join(_ANSWER_TIMEOUT_S)
        if self._actor is not None:
            self._leave()

    def _follow(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self._update()

    def _update(self) -> None:
        try:
            self.trials = divide_slots(self._announce(), self._count_slots())[self._token]
        except Exception as error:  # noqa: BLE001 - of whatever kind, a study goes on with the share that it has
            _log.warning("the study's share of the cluster cannot be found out: %s", error)
            self._actor = None

    def _announce(self) -> dict[str, int | None]:
        import ray

        if self._actor is None:
            self._actor = (
                ray.remote(SharesActor)
                .options(
                    name=_ACTOR, namespace=_NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0, resources=_ON_HEAD,
                    max_restarts=-1,
                )
                .remote()
            )  # fmt: skip
        answer: dict[str, int | None] = ray.get(
            self._actor.announce.remote(self._token, self._limit), timeout=_ANSWER_TIMEOUT_S
        )
        return answer

    def _leave(self) -> None:
        """Wait until the actor knows: what was sent is lost when the driver leaves the cluster right after."""
        import ray

        try:
            ray.wait([self._actor.leave.remote(self._token)], timeout=_ANSWER_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - of whatever kind, the study has ended
            _log.warning("the other studies of the cluster cannot be told that this one has ended: %s", error)
