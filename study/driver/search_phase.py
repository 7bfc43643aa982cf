"""A search from its first suggestion to its winners: the phase before the trials that are reported on the test set.

The driver trains what the journal suggests; what was found becomes cells of the study, which are then trained like the cells
of any grid, on the full training set and with seeds that no searched trial had.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import Counter
from dataclasses import dataclass, replace

import pandas as pd
from rich.console import Console

from analysis.records.factors import field_title
from analysis.records.study_json import StudyInfo
from analysis.results.formats import to_text
from analysis.results.result_table import ColumnKind, ResultTable, TableColumn
from analysis.search.spec import SearchSpec
from study.driver.experiment import Work, run_trials
from study.driver.invocation import Invocation
from study.driver.progress import Progress
from study.folder.ledger import consolidate
from study.folder.model_and_samples import model_tables, write_samples
from study.folder.study_record import build_study, extend_study
from study.plan.calibration import actual_training_s
from study.plan.description import compare_time
from study.plan.epoch_times import EpochTimes
from study.plan.estimate import Cost, check_space, estimate_search, searched_config
from study.plan.resources import Machine, ResourceError, TrialResources, count_gpu_slots
from study.plan.units import format_duration
from study.search.journal import SearchJournal
from study.spec.errors import SpecError
from study.spec.run_settings import RunSettings
from study.spec.study_spec import StudySpec, build_cell, with_cells
from trainable.config import FIELDS, TrialConfig, is_model_field


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What a search has come to: once it is over the study has its winners as cells, and `spec` says to train them."""

    study: StudyInfo
    spec: StudySpec
    over: bool
    interrupted: bool


def check_search(spec: StudySpec, settings: RunSettings, machine: Machine, resources: TrialResources) -> None:
    """Refuse a search that cannot be planned or run as asked. Errors: SpecError, ResourceError."""
    assert spec.search is not None
    if settings.calibrate and settings.plan:
        raise SpecError(
            "--calibrate: the plan of a search cannot be timed yet, its trials differ in speed; leave it out"
        )
    check_workers(settings.max_concurrent, machine, resources)
    check_budget(spec.search, resources)


def check_workers(asked: int | None, machine: Machine, resources: TrialResources) -> None:
    """Refuse more trials at a time than there is room for: the sampler would count on them. Errors: ResourceError."""
    slots = machine.num_cpus
    if resources.gpus_per_trial:
        slots = min(slots, count_gpu_slots(machine.num_gpus, resources.gpus_per_trial))
    if asked is not None and asked > slots and not machine.is_cluster:  # more nodes may join one
        raise ResourceError(
            f"--max-concurrent {asked}: only {slots} trials fit at a time here ({machine.num_cpus} CPUs, {machine.num_gpus} "
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


def run_search(invocation: Invocation, spec: StudySpec, study: StudyInfo) -> SearchOutcome:
    """Search until the budget is spent, and say what was found. A search that is over already is not gone on with."""
    store, folder = invocation.store, invocation.store.folder
    if folder.trials.is_dir():
        consolidate(folder)  # it rebuilds records that are damaged, from which the journal may have to be made again
    interrupted = False
    journal = SearchJournal(folder, spec, invocation.data.fingerprint, store.change_trial)
    if not journal.over:
        invocation.check_hardware()
        check_space(folder.path, store.disk_bytes([searched_config(spec)] * journal.num_to_run))
        invocation.note(study, journal.num_to_run)
        cost, before = predict_search(journal, spec, invocation.resources, invocation.times), journal.states()
        print(describe_start(journal, cost))
        invocation.mirror.start()
        interrupted = not _train_suggested(invocation, spec, journal)
        invocation.check_kept()
        consolidate(folder)
        taken_s = actual_training_s(list(before.values()), list(journal.states().values()))
        if not interrupted and (line := compare_time(cost, taken_s)):
            print(line)
    print(describe_end(journal, width=shutil.get_terminal_size((120, 24)).columns))
    if not journal.over:
        print(f"the search is not over; every finished epoch is kept, and this goes on:\n  {invocation.command}")
        return SearchOutcome(study=study, spec=spec, over=False, interrupted=interrupted)
    found = add_winners(spec, journal)
    asked = build_study(found, invocation.data, invocation.machine, invocation.resources)
    study = extend_study(folder.read_study(), asked, accept_changes=True)
    return SearchOutcome(study=study, spec=found, over=True, interrupted=False)


def _train_suggested(invocation: Invocation, spec: StudySpec, journal: SearchJournal) -> bool:
    """Train what the journal suggests until the budget is spent; False when the user interrupted. Nothing is left RUNNING."""
    store, folder = invocation.store, invocation.store.folder
    write_samples(folder, invocation.data)
    shown = sorted(journal.states().values(), key=lambda state: state.config.seed)
    num_slots, planned = invocation.resources.max_concurrent, journal.spec.trials
    if any(objective.reads_model for objective in journal.objectives):  # wanted as soon as the first trial ends
        with model_tables(folder, _networks(spec), invocation.data):
            pass
    try:
        with (
            model_tables(folder, _networks(spec), invocation.data),
            Progress(
                Console(), shown, list(journal.spec.space), num_slots, invocation.progress_file, planned
            ) as progress,
        ):
            return run_trials(invocation, Work(progress=progress, journal=journal))
    finally:
        if folder.exists() and not invocation.lock.lost:  # it may have been removed meanwhile, or be another driver's
            with contextlib.suppress(OSError):  # the next driver brings it up to date too
                store.fetch()
            journal.close()


def predict_search(
    journal: SearchJournal, spec: StudySpec, resources: TrialResources, times: EpochTimes | None = None
) -> Cost:
    """What the search has left; its time, pruning counted in, is None where that or the number of trials is not known."""
    cost, share = estimate_search(spec, resources, times)
    if cost.time_s is None or journal.spec.trials is None:
        return replace(cost, time_s=None)
    return replace(cost, time_s=cost.time_s * share * journal.num_to_run / journal.spec.trials)


def describe_start(journal: SearchJournal, cost: Cost) -> str:
    """What is about to happen, in one line."""
    said = f"search with {journal.spec.sampler} until {journal.spec.describe_budget()} are spent"
    if journal.trials:
        said = f"search goes on: {len(journal.trials)} trials so far, {journal.unfinished} of them to be finished"
    if cost.time_s is None:
        return said
    return f"{said}; training will take about {format_duration(cost.time_s)}, {cost.basis}"


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
        TableColumn("trial", "trial", "count"),
        TableColumn("epochs", "epochs", "count"),
        *(TableColumn(objective.name, objective.title, objective.kind) for objective in journal.objectives),
        *(TableColumn(name, field_title(name), _parameter_kind(name)) for name in spec.space),
        TableColumn("origin", "origin"),
    )
    return ResultTable(
        "search", "Best searched trials, by validation", frame, columns, tuple(_describe_outcome(journal))
    )


def _parameter_kind(name: str) -> ColumnKind:
    kind = "" if is_model_field(name) else str(FIELDS[name].type)
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


def _networks(spec: StudySpec) -> list[TrialConfig]:
    """A configuration of every network that a searched trial may have."""
    space = spec.search.space if spec.search else {}
    varied = [name for name in space if name == "width" or is_model_field(name)]
    base = TrialConfig.from_dict(spec.search_base)
    return [
        TrialConfig.from_dict({**base.to_dict(), **dict(zip(varied, values, strict=True))})
        for values in itertools.product(*(space[name].extremes for name in varied))
    ]
