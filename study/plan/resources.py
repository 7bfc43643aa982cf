"""What the machine has and what each trial gets of it: CPUs, threads, GPUs, and how many trials run at once.

A trial trains on one GPU where at least one is visible, else on CPUs. Looks at the machine without importing torch or Ray, so
that `--plan` answers at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from study.plan.gpus import Gpu, inspect_gpus
from trainable.config import Precision

_BF16_CAPABILITY = (8, 0)  # Ampere; on older GPUs torch imitates bf16, slowly


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
    gpus: tuple[Gpu, ...] = ()  # of this machine alone, those that no other study has claimed
    gpus_taken: int = 0  # by other studies
    gpu_reason: str | None = None  # why there are not more

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
        return self.gpus_per_trial == 1 or (self.gpus_per_trial == 0 and self.max_concurrent == 1)

    def to_dict(self) -> dict[str, Any]:
        """For study.json."""
        return asdict(self)


def inspect_machine(gpus_per_trial: float | None = None) -> Machine:
    """CPUs by affinity; GPUs as `study.plan.gpus` finds them, less those that are not free for trials with this part of one."""
    gpus = inspect_gpus(shared=is_part(gpus_per_trial))
    return Machine(
        num_cpus=len(os.sched_getaffinity(0)),
        num_gpus=len(gpus.free),
        gpus=gpus.free,
        gpus_taken=gpus.num_taken,
        gpu_reason=gpus.reason,
    )


def is_part(gpus: float | None) -> bool:
    """Whether a trial with so many GPUs shares one."""
    return gpus is not None and 0 < gpus < 1


def resolve_gpus_per_trial(machine: Machine, asked: float | None) -> float:
    """The GPUs of a trial: as asked, else one where the machine, or a node of the cluster, has one to give. Errors: ResourceError."""
    if asked is None:
        if machine.gpus_taken and not machine.num_gpus:
            raise ResourceError(
                f"GPUs: {machine.gpu_reason}; wait for them, share one with --gpus-per-trial 0.5 in both studies, or train on "
                "CPUs with --gpus-per-trial 0"
            )
        nodes = machine.nodes or (Node(machine.num_cpus, machine.num_gpus),)
        return 1.0 if any(node.num_cpus and node.num_gpus for node in nodes) else 0.0
    if asked > 1:
        raise ResourceError(
            f"--gpus-per-trial {asked:g}: a trial trains on one GPU; give 1, a part such as 0.5, or 0 for CPUs"
        )
    if not asked >= 0:
        raise ResourceError(f"--gpus-per-trial {asked:g}: give 1, a part of one GPU such as 0.5, or 0 for CPUs")
    return asked


def divide_resources(
    machine: Machine, num_trials: int, *, gpus_per_trial: float | None = None, max_concurrent: int | None = None
) -> TrialResources:
    """Share the machine, or the nodes of a cluster, among `num_trials` trials; the same answer for the same question.

    Errors: ResourceError when a trial asks for more than there is.
    """
    gpus = resolve_gpus_per_trial(machine, gpus_per_trial)
    if max_concurrent is not None and max_concurrent < 1:
        raise ResourceError(f"--max-concurrent {max_concurrent}: at least one trial must run at a time")
    if machine.is_cluster:
        return _divide_cluster(machine.nodes, num_trials, gpus, max_concurrent)
    if gpus and not machine.num_gpus:
        why = f" ({machine.gpu_reason})" if machine.gpu_reason else ""
        raise ResourceError(f"--gpus-per-trial {gpus:g}: 0 GPUs are visible here{why}")
    slots = count_gpu_slots(machine.num_gpus, gpus) if gpus else machine.num_cpus
    concurrent = max(1, min(slots, machine.num_cpus, num_trials, max_concurrent or slots))
    return TrialResources(max(1, machine.num_cpus // concurrent), gpus, concurrent)


def _divide_cluster(
    nodes: tuple[Node, ...], num_trials: int, gpus: float, max_concurrent: int | None
) -> TrialResources:
    """The most CPUs a trial at which all trials of the study still run at once, and which the smallest node that fits still has.

    Two nodes of 8 CPUs and 4 trials: 4 each. A trial with GPUs gets at most their part of its node's CPUs. A smaller
    --max-concurrent makes no trial larger: the rest is for other studies. The answer's `max_concurrent` is what the nodes offer
    now; more nodes may join.
    """
    fitting = [node for node in nodes if node.num_cpus >= 1 and node.num_gpus >= gpus]
    if not fitting:
        asked = f"--gpus-per-trial {gpus:g}: no node of the cluster has so many GPUs" if gpus else "no node has a CPU"
        offers = ", ".join(f"{node.count} x {node.num_cpus} CPU {node.num_gpus} GPU" for node in nodes)
        raise ResourceError(f"{asked}; its nodes are {offers}")
    wanted = min(num_trials, count_slots(fitting, gpus, 1))
    most = max(
        1, min(node.num_cpus // count_gpu_slots(node.num_gpus, gpus) if gpus else node.num_cpus for node in fitting)
    )
    cpus = next(cpus for cpus in range(most, 0, -1) if count_slots(fitting, gpus, cpus) >= wanted)
    slots = count_slots(fitting, gpus, cpus)
    return TrialResources(cpus, gpus, max(1, min(slots, num_trials, max_concurrent or slots)))


def count_slots(nodes: Sequence[Node], gpus: float, cpus: int) -> int:
    """How many trials with so many GPUs and CPUs fit on the nodes at the same time."""
    return sum(
        node.count * min(node.num_cpus // cpus, count_gpu_slots(node.num_gpus, gpus) if gpus else node.num_cpus)
        for node in nodes
    )


def default_precision(machine: Machine, resources: TrialResources, of_grid: Precision | None = None) -> Precision:
    """Of trials that name none. On CPUs fp32; on GPUs that of the grid, else bf16 where they compute in it, else fp32.

    They do from compute capability 8.0 on; those of a cluster are taken for such.
    """
    if not resources.gpus_per_trial:
        return "fp32"
    native = all(gpu.capability >= _BF16_CAPABILITY for gpu in machine.gpus)
    return of_grid or ("bf16" if native else "fp32")


def has_native_bf16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's cores multiply in bf16 themselves; False where the system does not say (it is Linux that does)."""
    try:
        flags = cpu_info.read_text().split("flags", 1)[-1].split("\n", 1)[0].split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def num_gpus_used(machine: Machine, resources: TrialResources) -> int:
    """How many GPUs of this machine the trials use at the same time."""
    return min(machine.num_gpus, resources.max_concurrent) if resources.gpus_per_trial else 0


def reserved_gpus(machine: Machine, resources: TrialResources) -> float:
    """What Ray is asked for each trial. Ray packs parts onto as few GPUs as it can.

    On this machine the parts are therefore as large as spreads the trials over all GPUs: with 0.25 asked, 4 GPUs and 8 trials it
    is 0.5. On a cluster they are as asked, since the rest of a GPU may be for other studies.
    """
    gpus = resources.gpus_per_trial
    if machine.is_cluster or not is_part(gpus):
        return gpus
    return max(gpus, 1 / math.ceil(resources.max_concurrent / machine.num_gpus))


def count_gpu_slots(num_gpus: int, gpus: float) -> int:
    """How many trials with this part of a GPU, more than 0, fit on so many GPUs: none is cut in two."""
    return num_gpus * int(1 / gpus + 1e-9)
