"""One invocation of `study.run` on a study whose lock it holds: the search, if it has one, then the trials that are missing."""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.records.study_folder import StudyFolderError
from study.cluster.node_probe import check_nodes
from study.command_line.exit_status import INTERRUPTED, SOME_FAILED
from study.command_line.program import program_name
from study.driver.device import check_gpus
from study.folder.ledger import Ledger, consolidate, list_states, register_trials
from study.folder.repair import write_study
from study.folder.study_record import build_study, describe_attempt, extend_study, with_attempt
from study.plan import estimate as plan
from study.plan.calibration import actual_training_s, calibrate
from study.plan.resources import Machine, TrialResources
from study.spec.study_spec import StudySpec
from study.storage.study_lock import StudyLock
from study.storage.study_store import StudyStore
from study.tracking.mirror import Mirror
from trainable.trial_state import read_state

if TYPE_CHECKING:
    from analysis.records.study_folder import StudyInfo
    from study.driver.experiment import RunOptions
    from trainable.data.image_data import ImageData


@dataclass(frozen=True)
class Attempt:
    """What was asked, where the study lies, and what its trials train on and with."""

    options: argparse.Namespace
    arguments: list[str]
    data: ImageData
    store: StudyStore
    machine: Machine
    resources: TrialResources
    lock: StudyLock
    mirror: Mirror

    @property
    def command(self) -> str:
        """What to type to go on."""
        return f"{program_name('run')} {shlex.join(self.arguments)}"

    def run_options(self) -> RunOptions:
        """How its trials are run."""
        from study.driver.experiment import RunOptions

        options = self.options
        return RunOptions(
            options.checkpoint_interval, options.max_failures, options.trial_timeout,
            max_concurrent=options.max_concurrent, verbose=options.verbose, mirror=self.mirror,
        )  # fmt: skip


def repair(store: StudyStore) -> None:
    """Repair what can be, and say so."""
    for line in store.repair():
        print(f"repaired: {line}")


def search(attempt: Attempt, spec: StudySpec, study: StudyInfo) -> tuple[StudyInfo, StudySpec] | int:
    """Search until the budget is spent; the study with the winners as cells, or an exit status when it ended before that."""
    from study.driver.search_phase import add_winners, describe_end, describe_start, run_search
    from study.search.journal import SearchJournal

    store = attempt.store
    folder = store.folder
    if folder.trials.is_dir():
        consolidate(folder)  # it rebuilds records that are damaged, from which the journal may have to be made again
    interrupted = False
    journal = SearchJournal(folder, spec, attempt.data.fingerprint, store.change_trial)
    if not journal.over:
        _check_hardware(attempt)
        plan.check_space(folder.path, store.disk_bytes([plan.searched_config(spec)] * journal.num_to_run))
        write_study(folder, with_attempt(study, describe_attempt(attempt.arguments, journal.num_to_run)))
        print(describe_start(journal, spec, attempt.resources))
        attempt.mirror.start()
        interrupted = not run_search(
            journal, spec, attempt.data, store, attempt.machine, attempt.resources, attempt.lock, attempt.run_options()
        )
        _check_kept(attempt)
        consolidate(folder)
    print(describe_end(journal, width=shutil.get_terminal_size((120, 24)).columns))
    if not journal.over:
        print(f"the search is not over; every finished epoch is kept, and this goes on:\n  {attempt.command}")
        return INTERRUPTED if interrupted else SOME_FAILED
    found = add_winners(spec, journal)
    known = folder.read_study()
    return extend_study(
        known, build_study(found, attempt.data, attempt.machine, attempt.resources), accept_changes=True
    ), found


@contextmanager
def artifacts(attempt: Attempt) -> Iterator[None]:
    """Leave what the report draws besides measurements, where it is not there yet: samples first, layer tables meanwhile.

    Layers of the models of all trials that the study has, also earlier and searched ones.
    """
    from study.folder.model_and_samples import model_tables, write_samples

    folder = attempt.store.folder
    write_samples(folder, attempt.data)
    with model_tables(folder, {state.config.width for state in list_states(folder)}):
        yield


def run_missing(attempt: Attempt, study: StudyInfo, ledger: Ledger, *, noted: bool) -> bool:
    """Note the attempt in study.json, unless it is `noted`, and run what is to run; False when the user interrupted."""
    store, resources = attempt.store, attempt.resources
    folder = store.folder
    _check_hardware(attempt)
    missing = [plan.rest_of_trial(s.config, s.epochs_completed) for s in ledger.to_run]
    speeds = calibrate(missing, attempt.data, resources, plan.reference_rate) if attempt.options.calibrate else None
    cost = plan.estimate_cost(missing, resources, speeds)
    plan.check_space(folder.path, store.disk_bytes(missing))
    write_study(
        folder, study if noted else with_attempt(study, describe_attempt(attempt.arguments, len(ledger.to_run)))
    )
    _print_start(ledger, cost, resources)
    if not attempt.mirror.started:
        attempt.mirror.start()
    try:
        finished = _run_trials(attempt, study, ledger)
        store.fetch()
    except OSError:
        if folder.exists():
            raise
        finished = False
    _check_kept(attempt)
    repair(store)
    after = [state for state in map(read_state, map(folder.trial, (s.trial_id for s in ledger.to_run))) if state]
    if finished and (line := plan.compare_time(cost, actual_training_s(ledger.to_run, after))):
        print(line)
    return finished


def _check_hardware(attempt: Attempt) -> None:
    """Refuse nodes that cannot run trials, or a GPU of this machine that fails its check, before the first trial."""
    if attempt.machine.is_cluster:
        check_nodes(attempt.store.trial_storage, attempt.lock.token)
    else:
        check_gpus(attempt.machine, attempt.resources, print)


def _check_kept(attempt: Attempt) -> None:
    if attempt.lock.lost or not attempt.store.folder.exists():
        raise StudyFolderError(
            f"{attempt.store.shown}: removed or taken over by another driver while its trials ran; the same command starts it again"
        )


def _run_trials(attempt: Attempt, study: StudyInfo, ledger: Ledger) -> bool:
    """Run what is to run; False when the user interrupted."""
    from rich.console import Console

    from study.driver.experiment import run_trials
    from study.driver.progress import Progress

    store, resources = attempt.store, attempt.resources
    register_trials(store.folder, ledger.to_run)
    for state in ledger.to_run:
        if state.status == "failed" or state.role != "grid":  # pending again, or of a role that its node must know
            store.put_trial(state.trial_id)
    shown = sorted((*ledger.done, *ledger.left_failed, *ledger.to_run), key=lambda state: state.config.seed)
    with (
        artifacts(attempt),
        Progress(Console(), shown, study.factors, resources.max_concurrent) as progress,
    ):
        return run_trials(
            store,
            ledger.to_run,
            attempt.data,
            attempt.machine,
            resources,
            attempt.lock,
            progress,
            attempt.run_options(),
        )


def _print_start(ledger: Ledger, cost: plan.Cost, resources: TrialResources) -> None:
    resumed = sum(state.epochs_completed > 0 for state in ledger.to_run)
    if ledger.done or resumed:
        print(
            f"goes on: {len(ledger.done)} trials done, {len(ledger.to_run)} to run, {resumed} of them from a checkpoint"
        )
    if cost.cpu_time_s is not None:
        print(f"training will take about {plan.format_duration(cost.cpu_time_s)} on {resources.max_concurrent} x "
              f"{resources.cpus_per_trial} CPU, {plan.describe_basis(cost)}; {plan.BESIDES_TRAINING}")  # fmt: skip
