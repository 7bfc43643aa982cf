"""Whether a trial's attempt ended because the node under it was lost, or by itself: only the latter is a failure of the trial.

A preempted or crashed machine breaks the connection first; that its node is dead Ray declares seconds later. Imports Ray.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import ray
from ray._private import state

from study.cluster.node_probe import UnfitNodeError
from study.cluster.nodes import list_nodes
from study.driver.failures import failure_reason

_NO_NODE = ray.NodeID.nil().hex()  # of an actor that never ran
_DECIDED_WITHIN_S = 60.0  # by default Ray misses a node after 15 s
_STILL_ALIVE_AFTER_S = 3.0  # a machine that shuts down ends its workers a moment before its raylet
_PAUSE_S = 0.2


def find_node_trouble(trial: Any) -> str | None:
    """What was wrong with the node of the trial's last attempt, lost or unfit; None where the attempt failed by itself."""
    reason = failure_reason(trial)
    if UnfitNodeError.__name__ in reason:
        return f"a node could not run it ({reason.partition(': ')[2]})"
    node = find_lost_node(trial)
    return node and f"{node} was lost"


def find_lost_node(trial: Any) -> str | None:
    """What to call the node that was lost under the trial's last attempt; None where the attempt failed by itself.

    Waits until Ray knows what became of the worker and of its node, at most a minute.
    """
    try:
        # Not trial.get_pickled_error(): that one looks in the study's storage, where Tune copies the error only later.
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())  # written by this process a moment ago
    except (OSError, TypeError, EOFError, pickle.UnpicklingError):
        return None
    if not isinstance(error, ray.exceptions.RayActorError) or error.actor_id is None:
        return None
    if error.preempted:
        return "a preempted node"
    # That the worker died, its raylet has told. A connection that broke tells nothing yet, nor does the actor's state, which Tune
    # has changed by giving the actor up.
    told = isinstance(error, ray.exceptions.ActorDiedError)
    deadline = time.monotonic() + (_STILL_ALIVE_AFTER_S if told else _DECIDED_WITHIN_S)
    while time.monotonic() < deadline:
        address = state.actors(error.actor_id).get("Address", {})
        node = address.get("NodeID")
        if node and node != _NO_NODE and node not in {alive["NodeID"] for alive in list_nodes()}:
            return f"node {address['IPAddress']} ({node[:8]})"
        time.sleep(_PAUSE_S)
    return None
