"""What a study would run and what it would cost, in words. Imports neither torch nor Ray."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from analysis.design.confounds import find_confounds
from analysis.design.grid_text import write_grid
from analysis.records.factors import network_labels, short_name
from analysis.search.objectives import list_objectives
from study.plan.calibration import Speed, SpeedKey
from study.plan.epoch_times import EpochTimes, epoch_images
from study.plan.estimate import Cost, estimate_cost, estimate_search, list_work, nominal_train_images
from study.plan.networks import is_published, network_size
from study.plan.resources import Machine, TrialResources, has_native_bf16, is_part, num_gpus_used
from study.plan.units import format_bytes, format_duration, format_flops
from study.spec.pruners import list_pruners
from study.spec.samplers import list_samplers
from study.spec.search_space import max_epochs
from study.spec.study_spec import StudySpec
from trainable.config import FIELDS, TrialConfig, model_name
from trainable.data.kinds import title_of
from trainable.user_code import is_reference

# On the reference machine: docs/benchmarks.md, orchestration.
BESIDES_TRAINING = "half a minute more to start and report"
_COMPARED_FROM_S = 60.0  # a shorter prediction is smaller than what a worker does before its first step


def describe_plan(
    spec: StudySpec,
    resources: TrialResources,
    machine: Machine,
    speeds: Mapping[SpeedKey, Speed] | None,
    times: EpochTimes,
) -> Iterator[str]:
    """The plan line by line, as `--plan` prints it: what would run and what it costs; of a grid also what it cannot tell, and a grid that can."""
    if spec.search is not None:
        yield from describe_search(spec, resources, times)
        yield from (f"note      {line}" for line in spec.without_effect())
        yield from _describe_seeds(spec, spec.search.top_k + len(spec.cells))
        return
    configs = spec.trial_configs()
    work = list_work(spec)
    yield from describe_cost(estimate_cost(work, resources, speeds, times), resources, len(work))
    yield from _describe_branches(spec, len(work) - len(configs))
    yield from _describe_seeds(spec, len(spec.cells))
    yield from (
        f"note      {line}"
        for line in [
            *gpu_notes(machine, resources),
            *offer_bf16(spec, machine, resources),
            *times.left_out,
            *spec.without_effect(),
            *spec.reductions,
        ]
    )
    yield from ("", *describe_trials(spec))
    confounds = find_confounds(spec.cells, spec.factors, nominal_train_images(configs[0]))
    if confounds:
        yield from ("", *confounds.sentences)
    if confounds.extra_cells:
        yield "\nA grid that tells them apart, to save as a FILE.toml for --grid:\n"
        yield write_grid(confounds, spec)


def _describe_branches(spec: StudySpec, number: int) -> Iterator[str]:
    if spec.branch is not None:
        asked = spec.branch
        yield (
            f"branches  {number} of these trials, after epochs {_listed(asked.epochs)} of each other one: batch sizes "
            f"{_listed(asked.batch_sizes)}, learning rate scaled {' or '.join(asked.scaling)}, {asked.length} x {asked.images:,} images"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _describe_seeds(spec: StudySpec, num_cells: int) -> Iterator[str]:
    if spec.stopping is not None:
        from study.plan.seeds import describe_seeds  # scipy, which no other plan needs

        yield from describe_seeds(spec, num_cells)


def describe_header(spec: StudySpec, resources: TrialResources, machine: Machine, shown_folder: str) -> str:
    """One line: name, data, model, trials, resources, folder."""
    configs = spec.trial_configs()
    data = sorted({f"{title_of(c.dataset)} {epoch_images(c)[0]:,}/{epoch_images(c)[1]:,}" for c in configs})
    labels = network_labels(model_name(c.to_dict()) for c in configs)
    models = list(dict.fromkeys(_describe_network(c, labels[model_name(c.to_dict())]) for c in configs))
    if len(models) > 2:
        models = [f"{len(models)} networks"]
    where = _describe_devices(machine, resources, sorted({c.precision for c in configs}))
    if machine.is_cluster:
        num_nodes = sum(node.count for node in machine.nodes)
        where += f" on {num_nodes} node{'s' if num_nodes != 1 else ''}"
    seeds = f"{len(spec.seeds)} seed{'s' if len(spec.seeds) > 1 else ''}"
    cells = f"{len(spec.cells)} cell{'s' if len(spec.cells) > 1 else ''}"
    return "   ".join([spec.name, " and ".join(data), " and ".join(models), f"{cells} x {seeds}", where, shown_folder])


def _describe_network(config: TrialConfig, label: str) -> str:
    size = network_size(config)
    name = "ResNet18" if is_published(config) else label
    return name if size is None else f"{name} {_describe_size(size.num_parameters)}"


def describe_cost(cost: Cost, resources: TrialResources, num_trials: int) -> list[str]:
    """The cost in words, one line each."""
    lines = [
        f"runs      {num_trials} trials, {resources.max_concurrent} at a time, {resources.cpus_per_trial} CPU "
        f"and {resources.gpus_per_trial:g} GPU each",
        f"compute   {format_flops(cost.train_flops)} of training (two per multiply-accumulate, forward and backward)"
        if math.isfinite(cost.train_flops)
        else "compute   not counted: a network does not take images of 3x32x32",
        f"disk      about {format_bytes(cost.disk_bytes)}",
    ]
    if cost.time_s is None:
        lines.append(f"time      not estimated: {cost.basis}")
    else:
        lines.append(f"time      about {format_duration(cost.time_s)} of training, {cost.basis}; {BESIDES_TRAINING}")
    if cost.peak_memory_bytes is not None:
        where = "of each GPU" if resources.gpus_per_trial else "at the same time, besides data and Ray"
        lines.append(f"memory    about {format_bytes(cost.peak_memory_bytes)} {where}")
    return lines


def compare_time(cost: Cost, actual_s: float | None) -> str | None:
    """Predicted against actual training time in words, a prediction of seconds left out; None where nothing was predicted."""
    if cost.time_s is None or not actual_s:
        return None
    if cost.time_s < _COMPARED_FROM_S:
        return f"training took {format_duration(actual_s)}"
    difference = actual_s / cost.time_s - 1
    return (
        f"training took {format_duration(actual_s)}; {format_duration(cost.time_s)} were predicted, "
        f"{cost.basis} ({difference:+.0%})"
    )


def describe_search(spec: StudySpec, resources: TrialResources, times: EpochTimes | None = None) -> list[str]:
    """What a search would do, one line each."""
    search = spec.search
    assert search is not None
    objectives, sampler, pruner = (
        [list_objectives()[name] for name in search.objectives], list_samplers()[search.sampler], list_pruners()[search.pruner],
    )  # fmt: skip
    cost, share = estimate_search(spec, resources, times)
    epochs, trials = max_epochs(search.space, spec.search_base), search.trials
    count = f"at most {trials} trials of {epochs} epochs" if trials else f"trials of {epochs} epochs (cost: of each)"
    pruned = f", about {share:.0%} of these epochs with {search.pruner} pruning" if share < 1 else ""
    if pruner.expect_epochs and share == 1:
        pruned = f"; {pruner.name} prunes none of them: too few epochs, or too long a warm-up, to judge early"
    time = (
        f"time not estimated: {cost.basis}"
        if cost.time_s is None
        else f"about {format_duration(cost.time_s)} without pruning, {cost.basis}"
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
            for line in describe_cost(estimate_cost(confirmed, resources, times=times), resources, len(confirmed))
        ),
    ]


def describe_trials(spec: StudySpec) -> list[str]:
    """The trials as aligned lines, all cells of each seed; long studies are cut."""
    names = [short_name(name) for name in ("batch_size", "learning_rate", *_other_factors(spec))]
    configs = spec.trial_configs()
    # A function that has no width is only called with the default one.
    more = (
        ["epochs"]
        if all(is_reference(c.model) and c.width == FIELDS["width"].default for c in configs)
        else ["epochs", "width"]
    )
    rows = [[*names, "seed", *more]]
    for config in configs:
        own = config.to_dict()
        values = [config.batch_size, config.learning_rate, *(own.get(f) for f in _other_factors(spec)), config.seed]
        rows.append([f"{value}" for value in (*values, *(own[name] for name in more))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return lines if len(lines) <= 41 else [*lines[:41], f"... and {len(lines) - 41} more"]


def offer_bf16(spec: StudySpec, machine: Machine, resources: TrialResources) -> list[str]:
    """The offer of bf16 where trials would run in fp32 on cores that compute in bf16; nobody chooses it silently."""
    measured = all(config.precision == "fp32" and is_published(config) for config in spec.trial_configs())
    if machine.is_cluster or resources.gpus_per_trial or not measured or not has_native_bf16():
        return []
    return [
        "these cores compute in bf16: --set precision=bf16 trained 1.8 times as fast at width 64 (205 against 112 images/s on two "
        "Zen 5 cores); it is another training, and published claims ask for fp32"
    ]


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


def _describe_size(parameters: float) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"


def _other_factors(spec: StudySpec) -> list[str]:
    return [name for name in spec.factors if name not in ("batch_size", "learning_rate")]
