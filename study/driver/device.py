"""Is a GPU fit to train on? Asked by the driver of its own machine before the first trial, and by a worker of the GPU it was given.

A GPU that fails its check trains nothing: the CPU takes its place only where $STUDY_CPU_FOR_GPU, or --gpus-per-trial 0, asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache

from study.plan.resources import Machine, ResourceError, TrialResources, num_gpus_used
from trainable.device.report import require_device

CPU_FOR_GPU_VARIABLE = "STUDY_CPU_FOR_GPU"
ALLOW_CPU = f"set {CPU_FOR_GPU_VARIABLE}=1 to train on CPUs what is planned for GPUs"


def check_gpus(machine: Machine, resources: TrialResources, say: Callable[[str], None]) -> frozenset[str]:
    """Check one GPU of each kind that trials of this machine will use, and say how it went; the kinds whose place CPUs take.

    Errors: ResourceError where a kind fails and nobody asked for CPUs.
    """
    unfit = set()
    kinds = {gpu.name: gpu for gpu in machine.gpus[: num_gpus_used(machine, resources)]}
    for gpu in kinds.values():
        report = require_device(gpu.uuid)
        if report.failures and not cpu_allowed():
            raise ResourceError(
                f"{report.line}; --gpus-per-trial 0 trains on CPUs, `python -m trainable.device.check` says more"
            )
        say(report.line + ("; CPUs take its place, as asked" if report.failures else ""))
        if report.failures:
            unfit.add(gpu.name)
    return frozenset(unfit)


def cpu_allowed() -> bool:
    """Whether someone has asked for CPUs in the place of GPUs that cannot be used."""
    return bool(os.environ.get(CPU_FOR_GPU_VARIABLE))


@cache
def find_gpu_problem() -> str | None:
    """Why this worker's GPU trains nothing, asked once in its life; None where nothing is wrong with it."""
    import torch

    if not torch.cuda.is_available():
        return "torch finds no CUDA device there"
    report = require_device()
    return report.line if report.failures else None
