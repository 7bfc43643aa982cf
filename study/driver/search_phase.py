"""A search from its first suggestion to its winners: the phase before the trials that are reported on the test set.

The driver trains what the journal suggests; what was found becomes cells of the study, which are then trained like the cells
of any grid, on the full training set and with seeds that no searched trial had.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from analysis.results.formats import to_text
from analysis.results.result_table import Column, ColumnKind, ResultTable
from study.driver.experiment import RunOptions, run_trials
from study.driver.progress import Progress
from study.folder.model_and_samples import model_tables, write_samples
from study.plan.estimate import describe_basis, estimate_search, format_duration
from study.plan.resources import Machine, ResourceError, TrialResources, count_gpu_places
from study.search.journal import SearchJournal
from study.spec.study_spec import StudySpec, build_cell, with_cells
from study.storage.study_lock import StudyLock
from study.storage.study_store import StudyStore
from trainable.config import FIELDS

if TYPE_CHECKING:
    from analysis.search.spec import SearchSpec
    from trainable.data.image_data import ImageData


def check_workers(asked: int | None, machine: Machine, resources: TrialResources) -> None:
    """Refuse more trials at a time than there is room for: the sampler would count on them. Errors: ResourceError."""
    places = machine.num_cpus
    if resources.gpus_per_trial:
        places = min(places, count_gpu_places(machine.num_gpus, resources.gpus_per_trial))
    if asked is not None and asked > places and not machine.is_cluster:  # more nodes may join one
        raise ResourceError(
            f"--max-concurrent {asked}: only {places} trials fit at a time here ({machine.num_cpus} CPUs, {machine.num_gpus} "
            "GPUs); ask for fewer"
        )


def check_budget(search: SearchSpec, resources: TrialResources) -> None:
    """Refuse a budget that nothing would ever spend. Errors: ResourceError."""
    if (
        search.gpu_hours is not None
        and not resources.gpus_per_trial
        and search.trials is None
        and search.wall_time_h is None
    ):
        raise ResourceError("gpu_hours never ends a search without GPUs: give trials or wall_time_h")


def run_search(
    journal: SearchJournal, spec: StudySpec, data: ImageData, store: StudyStore, machine: Machine,
    resources: TrialResources, lock: StudyLock, options: RunOptions,
) -> bool:  # fmt: skip
    """Train what the journal suggests until the budget is spent; False when the user interrupted. Nothing is left RUNNING."""
    folder = store.folder
    write_samples(folder, data)
    shown = sorted(journal.states().values(), key=lambda state: state.config.seed)
    if any(objective.reads_model for objective in journal.objectives):  # wanted as soon as the first trial ends
        with model_tables(folder, _widths(spec)):
            pass
    try:
        with (
            model_tables(folder, _widths(spec)),
            Progress(
                Console(), shown, list(journal.spec.space), resources.max_concurrent, num_planned=journal.spec.trials
            ) as progress,
        ):
            return run_trials(store, [], data, machine, resources, lock, progress, options, journal)
    finally:
        if folder.exists() and not lock.lost:  # it may have been removed meanwhile, or be another driver's
            with contextlib.suppress(OSError):  # the next driver brings it up to date too
                store.fetch()
            journal.close()


def describe_start(journal: SearchJournal, spec: StudySpec, resources: TrialResources) -> str:
    """What is about to happen, in one line."""
    cost, share = estimate_search(spec, resources)
    said = f"search with {journal.spec.sampler} until {journal.spec.describe_budget()} are spent"
    if journal.trials:
        said = f"search goes on: {len(journal.trials)} trials so far, {journal.unfinished} of them to be finished"
    if cost.cpu_time_s is None or journal.spec.trials is None:
        return said
    left_s = cost.cpu_time_s * share * journal.num_to_run / journal.spec.trials
    return f"{said}; training will take about {format_duration(left_s)}, {describe_basis(cost)}"


def describe_end(journal: SearchJournal, width: int) -> str:
    """The best trials as a table with what became of all."""
    return "\n" + to_text(summarize_search(journal), width=width)


def add_winners(spec: StudySpec, journal: SearchJournal) -> StudySpec:
    """The study with the best configurations of its search as cells, on the full training set like the others."""
    shared = {name: spec.cells[0].config[name] for name in ("validation_size", "test_limit")}
    cells = []
    for number, config in journal.winners():
        full = type(config).from_dict({**config.to_dict(), **shared, "seed": 0})
        cells.append(build_cell(full, f"Search trial {number}"))
    return with_cells(spec, cells)


def summarize_search(journal: SearchJournal) -> ResultTable:
    """The best trials of the search, and in the notes what became of all of them and what it took."""
    spec, trials = journal.spec, journal.trials
    states, by_number = journal.states(), {trial.number: trial for trial in trials}
    frame = pd.DataFrame(
        [
            {
                "trial": number,
                "epochs": states[number].epochs_completed,
                **dict(zip(spec.objectives, by_number[number].values or (), strict=True)),
                **by_number[number].params,
                "origin": by_number[number].user_attrs.get("cell", "suggested"),
            }
            for number, _ in journal.winners()
        ]
    )
    columns = (
        Column("trial", "trial", "count"),
        Column("epochs", "epochs", "count"),
        *(Column(objective.name, objective.title, objective.kind) for objective in journal.objectives),
        *(Column(name, name.replace("_", " "), _parameter_kind(name)) for name in spec.space),
        Column("origin", "origin"),
    )
    return ResultTable(
        "search", "Best searched trials, by validation", frame, columns, tuple(_describe_outcome(journal))
    )


def _parameter_kind(name: str) -> ColumnKind:
    kind = str(FIELDS[name].type)
    return "count" if kind.startswith("int") else "number" if kind == "float" else "text"


def _describe_outcome(journal: SearchJournal) -> list[str]:
    """What became of the trials, the epochs it took against those of every trial to its end, and why it ended."""
    counts = Counter(_WORDS.get(trial.state.name, "waiting") for trial in journal.trials)
    states = journal.states().values()
    trained, planned = sum(state.epochs_completed for state in states), sum(state.config.epochs for state in states)
    listed = ", ".join(f"{count} {word}" for word, count in counts.items())
    return [
        f"{len(journal.trials)} trials: {listed}; {trained:,} epochs trained of {planned:,} without pruning "
        f"({1 - trained / max(planned, 1):.0%} saved); {format_duration(journal.wall_time_s())} of searching.",
        f"Ended after {journal.spent() or 'less than its budget'}. These scores chose the winners, so they flatter them; the winners "
        "are trained again with fresh seeds, and only those trials are tested.",
    ]


_WORDS = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed or diverged"}


def _widths(spec: StudySpec) -> set[int]:
    """Every width that a searched trial may have."""
    domain = spec.search.space.get("width") if spec.search else None
    return {int(str(value)) for value in (domain.extremes if domain else (spec.search_base["width"],))}
