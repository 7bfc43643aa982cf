"""What the machine has and what each trial gets of it: CPUs, threads, GPUs, and how many trials run at once.

Looks at the machine without importing torch or Ray, so that `--plan` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# GPUs are used only where they are asked for: the CUDA path of `trainable` has not been run on a device yet.
DEFAULT_GPUS_PER_TRIAL = 0.0


class ResourceError(ValueError):
    """More is asked than there is; the message says how much there is."""


@dataclass(frozen=True)
class Node:
    """What so many nodes of a cluster offer each."""

    num_cpus: int
    num_gpus: int
    count: int = 1


@dataclass(frozen=True)
class Machine:
    """CPUs this process may use and GPUs that are visible to it, or all that the nodes of a Ray cluster have or may have."""

    num_cpus: int
    num_gpus: int
    nodes: tuple[Node, ...] = ()  # of a joined cluster, and those that it may start; empty: this machine alone
    running: tuple[Node, ...] = ()  # those of a joined cluster alone

    @property
    def is_cluster(self) -> bool:
        """True for a cluster that was joined."""
        return bool(self.nodes)

    def fits(self, gpus: float) -> bool:
        """Whether a node of the cluster that runs now has a CPU and so many GPUs."""
        return any(node.num_cpus >= 1 and node.num_gpus >= gpus for node in self.running)


@dataclass(frozen=True)
class TrialResources:
    """What one trial gets, and how many run at the same time."""

    cpus_per_trial: int
    gpus_per_trial: float
    max_concurrent: int

    @property
    def timing_exclusive(self) -> bool:
        """True where no other trial of the study shares a trial's device, so its times are results."""
        return self.gpus_per_trial >= 1 or (self.gpus_per_trial == 0 and self.max_concurrent == 1)

    def to_dict(self) -> dict[str, Any]:
        """For study.json."""
        return asdict(self)


def inspect_machine() -> Machine:
    """CPUs by affinity, NVIDIA GPUs by the driver's list and CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    listed = Path("/proc/driver/nvidia/gpus")
    num_gpus = len(list(listed.iterdir())) if listed.is_dir() else 0
    if visible is not None:
        num_gpus = min(num_gpus, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
    return Machine(num_cpus=len(os.sched_getaffinity(0)), num_gpus=num_gpus)


def divide_resources(
    machine: Machine, num_trials: int, *, gpus_per_trial: float | None = None, max_concurrent: int | None = None
) -> TrialResources:
    """Share the machine, or the nodes of a cluster, among `num_trials` trials; the same answer for the same question.

    Errors: ResourceError when a trial asks for more than there is.
    """
    gpus = DEFAULT_GPUS_PER_TRIAL if gpus_per_trial is None else gpus_per_trial
    if not (0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer())):
        raise ResourceError(f"--gpus-per-trial {gpus:g}: give 0, a part of one GPU such as 0.5, or a whole number")
    if max_concurrent is not None and max_concurrent < 1:
        raise ResourceError(f"--max-concurrent {max_concurrent}: at least one trial must run at a time")
    if machine.is_cluster:
        return _divide_cluster(machine.nodes, num_trials, gpus, max_concurrent)
    if gpus > machine.num_gpus:
        raise ResourceError(f"--gpus-per-trial {gpus:g}: {machine.num_gpus} GPUs are visible here")
    places = int(machine.num_gpus / gpus + 1e-9) if gpus else machine.num_cpus
    concurrent = max(1, min(places, machine.num_cpus, num_trials, max_concurrent or places))
    return TrialResources(max(1, machine.num_cpus // concurrent), gpus, concurrent)


def _divide_cluster(
    nodes: tuple[Node, ...], num_trials: int, gpus: float, max_concurrent: int | None
) -> TrialResources:
    """As many CPUs for a trial as leave room for all trials of the study, and as any node that fits can give it.

    A trial with GPUs gets their part of the node's CPUs and no more, and a smaller --max-concurrent makes no trial larger: the
    rest is for other studies. The answer's `max_concurrent` is what the nodes offer now; more nodes may join.
    """
    fitting = [node for node in nodes if node.num_cpus >= 1 and node.num_gpus >= gpus]
    if not fitting:
        asked = f"--gpus-per-trial {gpus:g}: no node of the cluster has so many GPUs" if gpus else "no node has a CPU"
        offers = ", ".join(f"{node.count} x {node.num_cpus} CPU {node.num_gpus} GPU" for node in nodes)
        raise ResourceError(f"{asked}; its nodes are {offers}")
    wanted = min(num_trials, count_places(fitting, gpus, 1))
    most = max(1, min(node.num_cpus // int(node.num_gpus / gpus + 1e-9) if gpus else node.num_cpus for node in fitting))
    cpus = next(cpus for cpus in range(most, 0, -1) if count_places(fitting, gpus, cpus) >= wanted)
    places = count_places(fitting, gpus, cpus)
    return TrialResources(cpus, gpus, max(1, min(places, num_trials, max_concurrent or places)))


def count_places(nodes: Sequence[Node], gpus: float, cpus: int) -> int:
    """How many trials with so many GPUs and CPUs fit on the nodes at the same time."""
    return sum(
        node.count * min(node.num_cpus // cpus, int(node.num_gpus / gpus + 1e-9) if gpus else node.num_cpus)
        for node in nodes
    )
