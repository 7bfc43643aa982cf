"""What a study would run and what it would cost, said before anything runs. Imports neither torch nor Ray."""

from __future__ import annotations

import heapq
import itertools
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.search.objectives import list_objectives
from study.plan.calibration import Speed, SpeedKey, speed_key
from study.plan.resources import Machine, TrialResources, is_part, num_gpus_used
from study.spec.pruners import list_pruners
from study.spec.samplers import list_samplers
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
# On the reference machine: docs/benchmarks.md, orchestration.
BESIDES_TRAINING = "half a minute more to start and report"
_COMPARED_FROM_S = 60.0  # a shorter prediction is smaller than what a worker does before its first step


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
    other on the places that there are, without starting up and the report.
    """
    flops = sum(_epoch_images(config)[0] * config.epochs * _flops_per_image(config.width) for config in configs)
    disk = disk_bytes(configs)
    if resources.gpus_per_trial:
        return Cost(flops, None, disk)
    if speeds is None:
        times_s = [_trial_time_s(config, resources.cpus_per_trial) for config in configs]
        return Cost(flops, _wall_time_s(times_s, resources.max_concurrent), disk)
    found = [speeds[speed_key(config)] for config in configs]
    times_s = [c.epochs * speed.epoch_s(c, *_epoch_images(c)) for c, speed in zip(configs, found, strict=True)]
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


def describe_header(spec: StudySpec, resources: TrialResources, machine: Machine, shown_folder: str) -> str:
    """One line: name, data, model, trials, resources, folder."""
    configs = spec.trial_configs()
    dataset = {"cifar10": "CIFAR-10", "synthetic": "synthetic images"}
    data = sorted({f"{dataset[c.dataset]} {_epoch_images(c)[0]:,}/{_epoch_images(c)[1]:,}" for c in configs})
    models = sorted({f"ResNet18 {_describe_size(_parameters(c.width))}" for c in configs})
    where = _describe_devices(machine, resources, sorted({c.precision for c in configs}))
    if machine.is_cluster:
        where += f" on {sum(node.count for node in machine.nodes)} nodes"
    seeds = f"{len(spec.seeds)} seed{'s' if len(spec.seeds) > 1 else ''}"
    cells = f"{len(spec.cells)} cell{'s' if len(spec.cells) > 1 else ''}"
    return "   ".join([spec.name, " and ".join(data), " and ".join(models), f"{cells} x {seeds}", where, shown_folder])


def describe_cost(cost: Cost, resources: TrialResources, num_trials: int) -> list[str]:
    """The cost in words, one line each."""
    lines = [
        f"runs      {num_trials} trials, {resources.max_concurrent} at a time, {resources.cpus_per_trial} CPU "
        f"and {resources.gpus_per_trial:g} GPU each",
        f"compute   {format_flops(cost.train_flops)} of training (two per multiply-accumulate, forward and backward)",
        f"disk      about {format_bytes(cost.disk_bytes)}",
    ]
    if cost.cpu_time_s is None:
        lines.append("time      not estimated: no GPU times have been measured yet")
    else:
        lines.append(
            f"time      about {format_duration(cost.cpu_time_s)} of training, {describe_basis(cost)}; {BESIDES_TRAINING}"
        )
    if cost.peak_memory_bytes is not None:
        lines.append(f"memory    about {format_bytes(cost.peak_memory_bytes)} at the same time, besides data and Ray")
    return lines


def describe_basis(cost: Cost) -> str:
    """What the estimated time rests on."""
    return (
        "from steps timed on this machine"
        if cost.calibrated
        else "judged by the speed of the reference machine's cores"
    )


def compare_time(cost: Cost, actual_s: float | None) -> str | None:
    """Predicted against actual training time in words, a prediction of seconds left out; None where nothing was predicted."""
    if cost.cpu_time_s is None or not actual_s:
        return None
    if cost.cpu_time_s < _COMPARED_FROM_S:
        return f"training took {format_duration(actual_s)}"
    difference = actual_s / cost.cpu_time_s - 1
    return (
        f"training took {format_duration(actual_s)}; {format_duration(cost.cpu_time_s)} were predicted, "
        f"{describe_basis(cost)} ({difference:+.0%})"
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


def describe_search(spec: StudySpec, resources: TrialResources) -> list[str]:
    """What a search would do, one line each."""
    search = spec.search
    assert search is not None
    objectives, sampler, pruner = (
        [list_objectives()[name] for name in search.objectives], list_samplers()[search.sampler], list_pruners()[search.pruner],
    )  # fmt: skip
    cost, share = estimate_search(spec, resources)
    epochs, trials = max_epochs(search.space, spec.search_base), search.trials
    count = f"at most {trials} trials of {epochs} epochs" if trials else f"trials of {epochs} epochs (cost: of each)"
    pruned = f", about {share:.0%} of these epochs with {search.pruner} pruning" if share < 1 else ""
    if pruner.expect_epochs and share == 1:
        pruned = f"; {pruner.name} prunes none of them: too few epochs, or too long a warm-up, to judge early"
    time = (
        "not estimated on a GPU"
        if cost.cpu_time_s is None
        else f"about {format_duration(cost.cpu_time_s)} without pruning"
    )
    confirmed = [TrialConfig.from_dict({**spec.cells[0].config, "seed": 0})] * (
        (search.top_k + len(spec.cells)) * len(spec.seeds)
    )
    return [
        f"search    {search.sampler}, seed {search.seed}, {' and '.join(search.objectives)} on {spec.search_base['validation_size']:,} "
        f"held-out training images; ends after {search.describe_budget()}",
        f"          {count}{pruned}; {len(search.enqueued)} configurations that are known are tried first",
        f"          {format_flops(cost.train_flops)} at most, {time}",
        *(f"          {objective.direction} {objective.name}: {objective.meaning}" for objective in objectives),
        *(f"          {method.name}: {method.meaning}" for method in (sampler, pruner)),
        *(f"          {name}: {domain}" for name, domain in search.space.items()),
        f"confirm   at most {len(confirmed)} trials on the full training set: the best {search.top_k} and {len(spec.cells)} known "
        f"configurations x {len(spec.seeds)} fresh seeds; only these are tested",
        *(
            f"          {line}"
            for line in describe_cost(estimate_cost(confirmed, resources), resources, len(confirmed))
        ),
    ]


def describe_trials(spec: StudySpec) -> list[str]:
    """The trials as aligned lines, all cells of each seed; long studies are cut."""
    names = [_short(name) for name in ("batch_size", "learning_rate", *_other_factors(spec))]
    rows = [[*names, "seed", "epochs", "width"]]
    for config in spec.trial_configs():
        values = [config.batch_size, config.learning_rate, *(getattr(config, f) for f in _other_factors(spec))]
        rows.append([*(f"{value}" for value in values), str(config.seed), str(config.epochs), str(config.width)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return lines if len(lines) <= 41 else [*lines[:41], f"... and {len(lines) - 41} more"]


def gpu_notes(machine: Machine, resources: TrialResources) -> list[str]:
    """What to say about GPUs: those that are not used, why there are not more, and who else computes on them."""
    notes = []
    if machine.num_gpus and not resources.gpus_per_trial:
        notes.append(f"{_count_gpus(machine.num_gpus)} here but not used, as asked: --gpus-per-trial 0")
    if machine.gpu_reason:
        notes.append(f"GPUs: {machine.gpu_reason}")
    used = machine.gpus[: num_gpus_used(machine, resources)]
    if busy := sum(gpu.busy for gpu in used):
        notes.append(f"{_count_gpus(busy)} used by other programs too: times will be longer than the device needs")
    if machine.is_cluster and is_part(resources.gpus_per_trial):
        notes.append(f"Ray packs trials with {resources.gpus_per_trial:g} of a GPU onto as few GPUs as it can")
    return notes


def _describe_devices(machine: Machine, resources: TrialResources, precisions: Sequence[str]) -> str:
    """What trials run on: the cores, or the GPUs and the precision, which follows from them."""
    if not resources.gpus_per_trial:
        return f"{machine.num_cpus} CPU cores"
    share = f"{resources.gpus_per_trial:g} GPU a trial"
    names = Counter(gpu.name for gpu in machine.gpus[: num_gpus_used(machine, resources)])
    devices = [f"{number} x {name}" for name, number in names.items()]
    return ", ".join([*devices, share, *precisions])


def _count_gpus(number: int) -> str:
    return f"{number} GPU{'s are' if number > 1 else ' is'}"


def nominal_train_images(config: TrialConfig) -> int:
    """Images of the whole training set, before limits, as far as known without reading the data."""
    return NOMINAL_TRAIN_IMAGES[config.dataset]


def format_duration(seconds: float) -> str:
    """12 s, 5 min, 3.5 h, 4.2 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.2g} days"


def format_bytes(count: float) -> str:
    """Decimal units, two digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_flops(flops: float) -> str:
    """Peta- or teraFLOP."""
    return f"{flops / 1e15:,.3g} PFLOP" if flops >= 1e15 else f"{flops / 1e12:,.3g} TFLOP"


def _trial_time_s(config: TrialConfig, num_cpus: int) -> float:
    train, test = _epoch_images(config)
    return config.epochs * (train + EVALUATION_COST * test) / (reference_rate(config.width) * num_cpus)


def _wall_time_s(times_s: Sequence[float], places: int) -> float:
    """Each trial in its order on the slot that is free first."""
    ends = [0.0] * places
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


def _epoch_images(config: TrialConfig) -> tuple[int, int]:
    """Training and test images of an epoch, as far as known without reading the data."""
    train = min(config.train_limit or math.inf, NOMINAL_TRAIN_IMAGES[config.dataset]) - config.validation_size
    test = (
        min(math.inf if config.test_limit is None else config.test_limit, _TEST_IMAGES[config.dataset])
        + config.validation_size
    )
    return int(train), int(test)


def _flops_per_image(width: int) -> float:
    return _FLOPS_PER_IMAGE_WIDTH_64 * (width / 64) ** 2


def _parameters(width: int) -> float:
    return _PARAMETERS_WIDTH_64 * (width / 64) ** 2


def _describe_size(parameters: float) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def disk_bytes(configs: Iterable[TrialConfig], *, checkpoints: int = 3) -> int:
    """Room for these trials: two checkpoints of weights and momentum, a third while it is written, and the records twice.

    0 `checkpoints` where they lie elsewhere: at a URL.
    """
    return sum(_trial_bytes(config, checkpoints) for config in configs)


def _trial_bytes(config: TrialConfig, checkpoints: int) -> int:
    measured = 0
    if config.instrument_every_steps:
        measured = math.ceil(_epoch_images(config)[0] / config.batch_size / config.instrument_every_steps)
    records = config.epochs * measured * 62 * _RECORD_BYTES_PER_LAYER_ROW
    return int(checkpoints * (8 * _parameters(config.width) + records) + 2 * records + 200_000)


def _other_factors(spec: StudySpec) -> list[str]:
    return [name for name in spec.factors if name not in ("batch_size", "learning_rate")]


def _short(name: str) -> str:
    return {"batch_size": "batch", "learning_rate": "lr"}.get(name, name)
