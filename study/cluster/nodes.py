"""The nodes of the cluster that this driver has joined, as Ray knows them now."""

from __future__ import annotations

from collections import Counter
from typing import Any

from study.cluster.autoscaling import read_planned_nodes, without_running
from study.plan.resources import Machine, Node, TrialResources, count_slots


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
