"""What a study would cost: computation, time, disk and memory, before anything runs. Imports neither torch nor Ray."""

from __future__ import annotations

import heapq
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from study.plan.calibration import Speed, SpeedKey, speed_key
from study.plan.epoch_times import REFERENCE_BASIS, EpochTimes, Hardware, epoch_images, train_flops
from study.plan.networks import NetworkSize, network_size
from study.plan.resources import TrialResources
from study.plan.units import format_bytes
from study.spec.pruners import list_pruners
from study.spec.search_space import max_epochs, max_warmup_epochs
from study.spec.study_spec import StudySpec
from trainable.config import TrialConfig
from trainable.data.kinds import sizes_of

CALIBRATED = "from steps timed on this machine"
_RECORD_BYTES_PER_LAYER_ROW = 60


class NoSpaceError(Exception):
    """The disk has less room than the study needs; the message says how much of both."""


@dataclass(frozen=True)
class Cost:
    """Estimates for a list of trials."""

    train_flops: float
    time_s: float | None  # None where nobody can say
    disk_bytes: int
    peak_memory_bytes: int | None = None  # of all trials that run at a time, of those on one GPU; None: not measured
    basis: str = REFERENCE_BASIS  # what the time rests on, or why there is none


def estimate_cost(
    configs: Sequence[TrialConfig],
    resources: TrialResources,
    speeds: Mapping[SpeedKey, Speed] | None = None,
    times: EpochTimes | None = None,
) -> Cost:
    """The cost of training `configs`: floating-point operations, wall time, and disk.

    With the `speeds` of a calibration times and memory are this machine's, else time is what `times` estimates. Wall time is that
    of the trials one after the other on the slots that there are, without starting up and the report.
    """
    times = times or EpochTimes(Hardware(None, resources.cpus_per_trial, resources.gpus_per_trial))
    flops, disk = train_flops(configs), disk_bytes(configs)
    if speeds is None:
        estimates = [times.estimate_s(config) for config in configs]
        known_s = [c.epochs * s for c, (s, _) in zip(configs, estimates, strict=True) if s is not None]
        whole = len(known_s) == len(configs)
        basis = "; ".join(dict.fromkeys(words for s, words in estimates if whole or s is None))
        return Cost(flops, _wall_time_s(known_s, resources.max_concurrent) if whole else None, disk, basis=basis)
    found = [speeds[speed_key(config)] for config in configs]
    times_s = [c.epochs * speed.epoch_s(c, *epoch_images(c)) for c, speed in zip(configs, found, strict=True)]
    sharing = times.hardware.trials_per_gpu if resources.gpus_per_trial else resources.max_concurrent
    memory = max((speed.peak_memory_bytes for speed in found), default=0) * sharing
    return Cost(flops, _wall_time_s(times_s, resources.max_concurrent), disk, memory, CALIBRATED)


def rest_of_trial(config: TrialConfig, epochs_completed: int) -> TrialConfig:
    """What costs as much as the epochs that a trial has left, at least one; no trial of its own."""
    left, run = config.last_epoch - max(epochs_completed, config.branch_epoch), config.as_trained
    limit = run.train_limit if config.branch_images is None else config.branch_images + run.validation_size
    return replace(run, epochs=max(1, left), warmup_epochs=0, train_limit=limit)


def list_work(spec: StudySpec) -> list[TrialConfig]:
    """What costs as much as the trials of a grid and their branches."""
    configs = spec.trial_configs()
    return [*configs, *(rest_of_trial(branch, 0) for branch in spec.branches_of(configs))]


def check_space(folder: Path, disk_bytes: int) -> None:
    """Raise NoSpaceError where the disk of `folder` (or its nearest existing parent) has less room than `disk_bytes`."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < disk_bytes:
        raise NoSpaceError(
            f"{existing}: {format_bytes(free)} free, the study needs about {format_bytes(disk_bytes)}; free some or "
            "choose another --results folder"
        )


def estimate_search(spec: StudySpec, resources: TrialResources, times: EpochTimes | None = None) -> tuple[Cost, float]:
    """The cost of all searched trials without pruning, and the share of their epochs that pruning is expected to leave."""
    assert spec.search is not None
    config = searched_config(spec)
    warmup = max_warmup_epochs(spec.search.space, spec.search_base)
    expect_epochs = list_pruners()[spec.search.pruner].expect_epochs
    share = expect_epochs(config.epochs, warmup) / config.epochs if expect_epochs else 1.0
    return estimate_cost([config] * (spec.search.trials or 1), resources, times=times), share


def searched_config(spec: StudySpec) -> TrialConfig:
    """The base of a search with the most epochs that one of its trials may have, for estimates."""
    assert spec.search is not None
    return TrialConfig.from_dict({**spec.search_base, "epochs": max_epochs(spec.search.space, spec.search_base)})


def nominal_train_images(config: TrialConfig) -> int:
    """Images of the whole training set, before limits, as far as known without reading the data."""
    return (sizes_of(config.dataset) or epoch_images(replace(config, train_limit=None, validation_size=0)))[0]


def _wall_time_s(times_s: Sequence[float], num_slots: int) -> float:
    """Each trial in its order on the slot that is free first."""
    ends = [0.0] * num_slots
    for time_s in times_s:
        heapq.heapreplace(ends, ends[0] + time_s)
    return max(ends)


def disk_bytes(configs: Iterable[TrialConfig], *, checkpoints: int = 3) -> int:
    """Room for these trials: two checkpoints of weights and optimizer, a third while it is written, and the records twice.

    0 `checkpoints` where they lie elsewhere: at a URL.
    """
    return sum(_trial_bytes(config, checkpoints) for config in configs)


def _trial_bytes(config: TrialConfig, checkpoints: int) -> int:
    measured = 0
    if config.instrument_every_steps:
        measured = math.ceil(epoch_images(config)[0] / config.batch_size / config.instrument_every_steps)
    size = network_size(config) or NetworkSize(0, 0, 0)
    records = config.epochs * measured * size.num_tensors * _RECORD_BYTES_PER_LAYER_ROW
    per_parameter = 12 if config.optimizer == "adamw" else 8  # the weight and what the optimizer keeps of it
    return int(checkpoints * (per_parameter * size.num_parameters + records) + 2 * records + 200_000)
