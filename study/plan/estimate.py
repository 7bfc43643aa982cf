"""What a study would cost: computation, time, disk and memory, before anything runs. Imports neither torch nor Ray."""

from __future__ import annotations

import heapq
import itertools
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from study.plan.calibration import Speed, SpeedKey, speed_key
from study.plan.resources import TrialResources
from study.plan.units import format_bytes
from study.spec.pruners import list_pruners
from study.spec.search_space import max_epochs, max_warmup_epochs
from study.spec.study_spec import NOMINAL_TRAIN_IMAGES, StudySpec
from trainable.config import TrialConfig

# Training images per second and CPU core at some widths, measured by tests/benchmarks/training.py on the project's
# reference machine (docs/benchmarks.md). Other machines differ; the live table corrects the estimate from the first epoch on.
REFERENCE_IMAGES_PER_S = {8: 930.0, 16: 600.0, 64: 56.0}
EVALUATION_COST = 1 / 3  # of a training image: the forward pass alone
_TEST_IMAGES = {"cifar10": 10_000, "synthetic": 2_000}
_FLOPS_PER_IMAGE_WIDTH_64 = 3_328_997_376  # forward and backward, two per multiply-accumulate
_PARAMETERS_WIDTH_64 = 11_173_962
_RECORD_BYTES_PER_LAYER_ROW = 60


class NoSpaceError(Exception):
    """The disk has less room than the study needs; the message says how much of both."""


@dataclass(frozen=True)
class Cost:
    """Estimates for a list of trials."""

    train_flops: float
    cpu_time_s: float | None  # None on a GPU: nothing was measured there
    disk_bytes: int
    peak_memory_bytes: int | None = None  # of all trials that run at a time; None where it was not measured
    calibrated: bool = False  # times measured on this machine, not judged by the reference machine's


def estimate_cost(
    configs: Sequence[TrialConfig], resources: TrialResources, speeds: Mapping[SpeedKey, Speed] | None = None
) -> Cost:
    """The cost of training `configs`: floating-point operations, wall time on CPUs, and disk.

    With the `speeds` of a calibration times and memory are this machine's. Wall time is that of the trials one after the
    other on the slots that there are, without starting up and the report.
    """
    flops = sum(epoch_images(config)[0] * config.epochs * _flops_per_image(config.width) for config in configs)
    disk = disk_bytes(configs)
    if resources.gpus_per_trial:
        return Cost(flops, None, disk)
    if speeds is None:
        times_s = [_trial_time_s(config, resources.cpus_per_trial) for config in configs]
        return Cost(flops, _wall_time_s(times_s, resources.max_concurrent), disk)
    found = [speeds[speed_key(config)] for config in configs]
    times_s = [c.epochs * speed.epoch_s(c, *epoch_images(c)) for c, speed in zip(configs, found, strict=True)]
    memory = max((speed.peak_memory_bytes for speed in found), default=0) * resources.max_concurrent
    return Cost(flops, _wall_time_s(times_s, resources.max_concurrent), disk, memory, calibrated=True)


def rest_of_trial(config: TrialConfig, epochs_completed: int) -> TrialConfig:
    """What costs as much as the epochs that a trial has left, at least one; no trial of its own."""
    return replace(config, epochs=max(1, config.epochs - epochs_completed), warmup_epochs=0)


def check_space(folder: Path, disk_bytes: int) -> None:
    """Raise NoSpaceError where the disk of `folder` (or its nearest existing parent) has less room than `disk_bytes`."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < disk_bytes:
        raise NoSpaceError(
            f"{existing}: {format_bytes(free)} free, the study needs about {format_bytes(disk_bytes)}; free some or "
            "choose another --results folder"
        )


def estimate_search(spec: StudySpec, resources: TrialResources) -> tuple[Cost, float]:
    """The cost of all searched trials without pruning, and the share of their epochs that pruning is expected to leave."""
    assert spec.search is not None
    config = searched_config(spec)
    warmup = max_warmup_epochs(spec.search.space, spec.search_base)
    expect_epochs = list_pruners()[spec.search.pruner].expect_epochs
    share = expect_epochs(config.epochs, warmup) / config.epochs if expect_epochs else 1.0
    return estimate_cost([config] * (spec.search.trials or 1), resources), share


def searched_config(spec: StudySpec) -> TrialConfig:
    """The base of a search with the most epochs that one of its trials may have, for estimates."""
    assert spec.search is not None
    return TrialConfig.from_dict({**spec.search_base, "epochs": max_epochs(spec.search.space, spec.search_base)})


def nominal_train_images(config: TrialConfig) -> int:
    """Images of the whole training set, before limits, as far as known without reading the data."""
    return NOMINAL_TRAIN_IMAGES[config.dataset]


def _trial_time_s(config: TrialConfig, num_cpus: int) -> float:
    train, test = epoch_images(config)
    return config.epochs * (train + EVALUATION_COST * test) / (reference_rate(config.width) * num_cpus)


def _wall_time_s(times_s: Sequence[float], num_slots: int) -> float:
    """Each trial in its order on the slot that is free first."""
    ends = [0.0] * num_slots
    for time_s in times_s:
        heapq.heapreplace(ends, ends[0] + time_s)
    return max(ends)


def reference_rate(width: int) -> float:
    """Images per second and core, straight lines through the measured widths on logarithmic axes."""
    known = sorted(REFERENCE_IMAGES_PER_S)
    pairs = list(itertools.pairwise(known))
    low, high = next((pair for pair in pairs if width <= pair[1]), pairs[-1])
    slope = math.log(REFERENCE_IMAGES_PER_S[high] / REFERENCE_IMAGES_PER_S[low]) / math.log(high / low)
    return float(REFERENCE_IMAGES_PER_S[low] * (width / low) ** slope)


def epoch_images(config: TrialConfig) -> tuple[int, int]:
    """Training and test images of an epoch, as far as known without reading the data."""
    train = min(config.train_limit or math.inf, NOMINAL_TRAIN_IMAGES[config.dataset]) - config.validation_size
    test = (
        min(math.inf if config.test_limit is None else config.test_limit, _TEST_IMAGES[config.dataset])
        + config.validation_size
    )
    return int(train), int(test)


def _flops_per_image(width: int) -> float:
    return _FLOPS_PER_IMAGE_WIDTH_64 * (width / 64) ** 2


def num_parameters(width: int) -> float:
    """Parameters of the model, about."""
    return _PARAMETERS_WIDTH_64 * (width / 64) ** 2


def disk_bytes(configs: Iterable[TrialConfig], *, checkpoints: int = 3) -> int:
    """Room for these trials: two checkpoints of weights and momentum, a third while it is written, and the records twice.

    0 `checkpoints` where they lie elsewhere: at a URL.
    """
    return sum(_trial_bytes(config, checkpoints) for config in configs)


def _trial_bytes(config: TrialConfig, checkpoints: int) -> int:
    measured = 0
    if config.instrument_every_steps:
        measured = math.ceil(epoch_images(config)[0] / config.batch_size / config.instrument_every_steps)
    records = config.epochs * measured * 62 * _RECORD_BYTES_PER_LAYER_ROW
    return int(checkpoints * (8 * num_parameters(config.width) + records) + 2 * records + 200_000)
