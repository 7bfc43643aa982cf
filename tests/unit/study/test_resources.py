"""How the nodes of a cluster are shared out among trials, held against counting slots one by one."""

from __future__ import annotations

import itertools

import pytest

from study.plan.resources import Machine, Node, ResourceError, TrialResources, divide_resources


def cluster(*nodes: Node) -> Machine:
    return Machine(sum(n.num_cpus * n.count for n in nodes), sum(n.num_gpus * n.count for n in nodes), nodes)


def fill(nodes: tuple[Node, ...], cpus: int, gpus: float) -> int:
    """Put trials on nodes one after the other until none fits any more."""
    slots = 0
    for node in nodes:
        for _ in range(node.count):
            free_cpus, free_gpus = node.num_cpus, [1.0] * node.num_gpus
            while free_cpus >= cpus:
                if 0 < gpus < 1:
                    device = next((i for i, free in enumerate(free_gpus) if free >= gpus - 1e-9), None)
                    if device is None:
                        break
                    free_gpus[device] -= gpus
                elif gpus:
                    if not free_gpus:
                        break
                    free_gpus = free_gpus[1:]
                free_cpus -= cpus
                slots += 1
    return slots


CLUSTERS = (
    (Node(1, 0, 2),),
    (Node(8, 0), Node(4, 0, 2)),
    (Node(16, 4),),
    (Node(4, 0), Node(16, 4), Node(32, 8, 2)),
    (Node(2, 4), Node(64, 1)),
)


@pytest.mark.parametrize(
    ("nodes", "gpus", "num_trials", "asked"),
    list(itertools.product(CLUSTERS, (0.0, 0.25, 0.4, 0.5, 1.0), (1, 3, 10, 1000), (None, 1, 2))),
)
def test_trials_get_what_their_nodes_can_give(
    nodes: tuple[Node, ...], gpus: float, num_trials: int, asked: int | None
) -> None:
    fitting = tuple(node for node in nodes if node.num_gpus >= gpus)
    machine = cluster(*nodes)
    if not fitting:
        with pytest.raises(ResourceError, match="no node of the cluster has so many GPUs"):
            divide_resources(machine, num_trials, gpus_per_trial=gpus, max_concurrent=asked)
        return
    resources = divide_resources(machine, num_trials, gpus_per_trial=gpus, max_concurrent=asked)
    cpus, concurrent = resources.cpus_per_trial, resources.max_concurrent
    assert concurrent == min(fill(fitting, cpus, gpus), num_trials, asked or num_trials)
    assert concurrent == min(fill(fitting, 1, gpus), num_trials, asked or num_trials), "CPUs cost no slot"
    assert all(fill((Node(node.num_cpus, node.num_gpus),), cpus, gpus) >= 1 for node in fitting), "any of them will do"
    most = max(
        1, min(node.num_cpus // (fill((Node(10**4, node.num_gpus),), 1, gpus) if gpus else 1) for node in fitting)
    )
    assert cpus <= most, "the CPUs of other GPUs are for other studies"
    assert cpus == most or fill(fitting, cpus + 1, gpus) < min(num_trials, fill(fitting, 1, gpus))


def test_a_trial_leaves_room_for_other_studies() -> None:
    nodes = (Node(16, 4),)
    assert divide_resources(cluster(*nodes), 1, gpus_per_trial=1).cpus_per_trial == 4
    assert divide_resources(cluster(*nodes), 8, gpus_per_trial=0, max_concurrent=1).cpus_per_trial == 2, (
        "as without --max-concurrent"
    )


def test_a_head_without_cpus_runs_nothing() -> None:
    assert divide_resources(cluster(Node(0, 0), Node(4, 0)), 2) == TrialResources(2, 0.0, 2)
    with pytest.raises(ResourceError, match="no node has a CPU; its nodes are 1 x 0 CPU 0 GPU"):
        divide_resources(cluster(Node(0, 0)), 2)


def test_one_trial_alone_on_its_gpu_is_timed() -> None:
    nodes = Node(8, 4, 2)
    assert divide_resources(cluster(nodes), 20, gpus_per_trial=1).timing_exclusive
    assert not divide_resources(cluster(nodes), 20, gpus_per_trial=0.25).timing_exclusive
    assert divide_resources(cluster(nodes), 100, gpus_per_trial=0.25).max_concurrent == 16, "8 CPUs for 16 slots a node"
