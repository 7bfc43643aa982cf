"""The nodes of the cluster that this driver has joined, as Ray knows them now, and those that its autoscaler may still start.

So a study can wait for its first node that fits a trial instead of being refused; from then on Tune asks for what its trials
need. Which nodes may be started is known on the head of a cluster that `ray up` made, from the file that its autoscaler reads,
and elsewhere from $STUDY_NODES, such as "4x8x1" for up to 4 nodes with 8 CPUs and 1 GPU each.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from study.plan.resources import Machine, Node, ResourceError, TrialResources, count_slots

VARIABLE = "STUDY_NODES"
_LAUNCHER_FILE = "ray_bootstrap_config.yaml"  # where `ray up` puts it on the head, in the home folder
_ANSWERED_WITHIN_S = 45.0
_UP_WITHIN_S = 1800.0
_PAUSE_S = 2.0
_NODES = re.compile(r"(\d+)x(\d+)x(\d+)")


def read_cluster() -> Machine:
    """CPUs and GPUs of all nodes of the joined cluster that are alive now, and of those that its autoscaler may start."""
    shapes = Counter(
        (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in list_nodes()
    )
    running = tuple(Node(cpus, gpus, count) for (cpus, gpus), count in sorted(shapes.items()))
    nodes = running + without_running(read_planned_nodes(), running)
    return Machine(
        num_cpus=sum(node.num_cpus * node.count for node in nodes),
        num_gpus=sum(node.num_gpus * node.count for node in nodes),
        nodes=nodes,
        running=running,
    )


def count_slots_now(resources: TrialResources) -> int:
    """How many such trials the joined cluster can run at the same time, with the nodes that it has now or may start."""
    return count_slots(read_cluster().nodes, resources.gpus_per_trial, resources.cpus_per_trial)


def list_nodes() -> list[dict[str, Any]]:
    """What Ray says about each node of the joined cluster that is alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def read_planned_nodes() -> tuple[Node, ...]:
    """The most nodes of each kind that the autoscaler of the cluster at hand may run; empty where nobody says.

    Errors: ResourceError for a value of $STUDY_NODES that says nothing.
    """
    text = os.environ.get(VARIABLE)
    if text:
        return parse_nodes(text)
    try:
        import yaml

        content = yaml.safe_load((Path.home() / _LAUNCHER_FILE).read_bytes())
        return _launcher_nodes(content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return ()


def parse_nodes(text: str) -> tuple[Node, ...]:
    """ "4x8x1,2x16x0" -> up to 4 nodes with 8 CPUs and 1 GPU each and up to 2 with 16 CPUs. Errors: ResourceError."""
    parts = [_NODES.fullmatch(part.strip()) for part in text.split(",")]
    if not all(parts):
        raise ResourceError(f"${VARIABLE}={text}: give NODESxCPUSxGPUS, such as 4x8x1, several with commas")
    found = [tuple(map(int, part.groups())) for part in parts if part]
    return tuple(Node(num_cpus=cpus, num_gpus=gpus, count=count) for count, cpus, gpus in found)


def without_running(planned: Iterable[Node], running: Iterable[Node]) -> tuple[Node, ...]:
    """The planned nodes less those that run already."""
    there = Counter[tuple[int, int]]()
    for node in running:
        there[node.num_cpus, node.num_gpus] += node.count
    left = [Node(n.num_cpus, n.num_gpus, n.count - there[n.num_cpus, n.num_gpus]) for n in planned]
    return tuple(node for node in left if node.count > 0)


def _launcher_nodes(content: dict[str, Any]) -> tuple[Node, ...]:
    """The worker types of a launcher file, as prepared by `ray up`: it has filled in what each type of instance has.

    No more of all together than the cluster may have: a type may be there as a fallback for another one.
    """
    types, left, found = content["available_node_types"], int(content["max_workers"]), []
    for name, kind in types.items():
        count = min(left, int(kind["max_workers"]))
        if name != content["head_node_type"] and count and kind["resources"].get("CPU"):
            found.append(Node(int(kind["resources"]["CPU"]), int(kind["resources"].get("GPU", 0)), count))
            left -= count
    return tuple(found)


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
