"""A cluster that grows on demand: waiting for its first node that fits a trial, where one is being brought up. Imports Ray.

Only until the first such node is there: from then on Tune asks for what its trials need, and nodes that join are used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

from study.cluster.nodes import read_cluster
from study.plan.resources import Machine, ResourceError

_ANSWERED_WITHIN_S = 45.0
_UP_WITHIN_S = 1800.0
_PAUSE_S = 2.0


def wait_for_node(machine: Machine, gpus: float, say: Callable[[str], None]) -> Machine:
    """The cluster as it is once a node has a CPU and `gpus` GPUs; with what runs alone where no autoscaler is bringing one up.

    Errors: ResourceError when the autoscaler does not succeed.
    """
    if machine.fits(gpus):
        return machine
    if machine.nodes == machine.running and not _has_autoscaler():
        return replace(machine, nodes=machine.running)
    import ray

    # A task that waits asks for its node like a trial, and for nobody else's: the autoscaler knows one explicit request per cluster.
    waiting = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_do_nothing).remote()
    started, said = time.monotonic(), False
    try:
        while time.monotonic() - started < (_UP_WITHIN_S if said else _ANSWERED_WITHIN_S):
            machine = read_cluster()
            if machine.fits(gpus):
                return machine
            if not said and _is_launching():
                say(f"no node has {f'{gpus:g} GPU' if gpus else 'a CPU'} yet; the autoscaler is bringing one up")
                said = True
            time.sleep(_PAUSE_S)
    finally:
        ray.cancel(waiting, force=True)
    if said:
        raise ResourceError(f"the autoscaler brought up no node within {_UP_WITHIN_S / 60:g} minutes; see `ray status`")
    reason = f"no node with one came up within {_ANSWERED_WITHIN_S:g} s" if gpus else None
    return replace(machine, nodes=machine.running, gpu_reason=reason)


def _do_nothing() -> None:
    """What the task does that waited for a node."""


def _has_autoscaler() -> bool:
    """Nodes of a launcher or of KubeRay belong to named types; others are called after their ids."""
    return any(not name.startswith("node_") for name in _describe()[0])


def _is_launching() -> bool:
    return _describe()[1]


def _describe() -> tuple[list[str], bool]:
    """The types of the nodes that are there, and whether more are on their way, from the autoscaler's own status."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        names = [str(node.ray_node_type_name) for node in (*status.active_nodes, *status.idle_nodes)]
        return names, bool(status.pending_launches or status.pending_nodes)
    content = _internal_kv_get("__autoscaling_status")
    report = json.loads(content).get("autoscaler_report") if content else None
    if not report:
        return [], False
    return list(report["active_nodes"]), bool(report["pending_launches"] or report["pending_nodes"])
