"""The trials that are reported: those of a grid, their branches, or those that confirm what a search has found. Run what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from analysis.records.study_json import StudyInfo
from study.driver.experiment import Work, run_trials
from study.driver.invocation import Invocation
from study.driver.progress import Progress
from study.folder.ledger import Ledger, load_state, register_trials
from study.folder.repair import write_study
from study.plan.calibration import actual_training_s, calibrate
from study.plan.description import BESIDES_TRAINING, compare_time
from study.plan.estimate import Cost, check_space, estimate_cost, rest_of_trial
from study.plan.resources import TrialResources
from study.plan.units import format_duration


def run_missing(
    invocation: Invocation, study: StudyInfo, ledger: Ledger, *, noted: bool, factors: Sequence[str],
    branch_epochs: tuple[int, ...] = (),
) -> bool:  # fmt: skip
    """Note the invocation in study.json, unless it is `noted`, and run what is to run; False when the user interrupted.

    The trials differ in `factors`, and keep their states after `branch_epochs`.
    """
    store, resources, folder = invocation.store, invocation.resources, invocation.store.folder
    unfit = invocation.check_hardware()
    missing = [rest_of_trial(s.config, s.epochs_completed) for s in ledger.to_run]
    machine, times, speeds = invocation.machine, invocation.times, None
    if invocation.settings.calibrate:
        invocation.ray.end()  # it has the GPUs that are to be timed
        speeds = calibrate(missing, invocation.data, machine, resources, times, unfit)
    cost = estimate_cost(missing, resources, speeds, times)
    check_space(folder.path, store.disk_bytes(missing))
    if noted:
        write_study(folder, study)
    else:
        invocation.note(study, len(ledger.to_run))
    _print_start(ledger, cost, resources)
    if not invocation.mirror.started:
        invocation.mirror.start()
    try:
        finished = _train(invocation, ledger, factors, branch_epochs)
        store.fetch()
    except OSError:
        if folder.exists():
            raise
        finished = False
    invocation.check_kept()
    invocation.repair()
    after = [state for s in ledger.to_run if (state := load_state(folder, s.trial_id))]
    if finished and (line := compare_time(cost, actual_training_s(ledger.to_run, after))):
        print(line)
    return finished


def _train(invocation: Invocation, ledger: Ledger, factors: Sequence[str], branch_epochs: tuple[int, ...]) -> bool:
    """Train what is to run; False when the user interrupted."""
    register_trials(invocation.store.folder, ledger.to_run)
    for state in ledger.to_run:
        if state.status == "failed" or state.role != "grid":  # pending again, or of a role that its node must know
            invocation.store.put_trial(state.trial_id)
    shown = sorted((*ledger.done, *ledger.left_failed, *ledger.to_run), key=lambda state: state.config.seed)
    num_slots, file = invocation.resources.max_concurrent, invocation.progress_file
    with invocation.artifacts(), Progress(Console(), shown, factors, num_slots, file) as progress:
        return run_trials(invocation, Work(progress=progress, states=ledger.to_run, branch_epochs=branch_epochs))


def _print_start(ledger: Ledger, cost: Cost, resources: TrialResources) -> None:
    resumed = sum(state.epochs_completed > 0 for state in ledger.to_run)
    if ledger.done or resumed:
        print(
            f"goes on: {len(ledger.done)} trials done, {len(ledger.to_run)} to run, {resumed} of them from a checkpoint"
        )
    if cost.time_s is not None:
        each = f"{resources.gpus_per_trial:g} GPU" if resources.gpus_per_trial else f"{resources.cpus_per_trial} CPU"
        print(f"training will take about {format_duration(cost.time_s)} on {resources.max_concurrent} x {each}, {cost.basis}; "
              f"{BESIDES_TRAINING}")  # fmt: skip
