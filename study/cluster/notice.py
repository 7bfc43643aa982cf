"""The notice before a node is taken: Ray marks it as draining, and a trial there saves and goes on elsewhere.

A node is marked when `ray start --block` gets SIGTERM (which then leaves $RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, by default 30 s),
by `ray drain-node`, and by an autoscaler that gives it back. Runs in the worker of a trial.
"""

from __future__ import annotations

import logging
import socket
import threading

from study.cluster.node_probe import UnfitNodeError

_INTERVAL_S = 3.0
_log = logging.getLogger(__name__)


class NodeNotice:
    """Sets `stop` when the node is about to be taken; a context manager. `given` is True from then on."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._ended, self._given = threading.Event(), threading.Event()

    @property
    def given(self) -> bool:
        """Whether the node is being taken away."""
        return self._given.is_set()

    def __enter__(self) -> NodeNotice:
        threading.Thread(target=self._watch, name="watch-node", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            if _is_draining():
                self._given.set()
                self._stop.set()
                return


def require_node_stays() -> None:
    """Raise UnfitNodeError where this node is about to be taken."""
    if _is_draining():
        raise UnfitNodeError(f"{socket.gethostname()} is being taken away")


def _is_draining() -> bool:
    import ray
    from ray._private import state

    try:
        return ray.get_runtime_context().get_node_id() in state.state.get_draining_nodes()
    except Exception as error:  # noqa: BLE001 - Ray's servers may be starting again, or be gone: then nothing is known
        _log.warning("whether this node is being taken away cannot be told: %s", error)
        return False
