"""`python -m study.run`: a grid -> trials on Ray Tune -> tables, figures and a report. See `--help`.

Reads top to bottom: options, specification, plan, data, study folder, trials, report.
Exit status: 0 every trial has ended (diverged is an end too), 3 some failed or a search is not over, 2 bad input or storage that
cannot be written, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.records.study_folder import StudyFolderError, check_links
from study.cluster.head import ClusterUnusableError
from study.cluster.session import LocalRay, joined_cluster
from study.command_line.exit_status import BAD_INPUT, INTERRUPTED, OK, SOME_FAILED, STATES
from study.command_line.live_page import live_page
from study.command_line.options import build_parser, read_settings, read_study
from study.command_line.program import program_name
from study.command_line.report import describe_unfinished, print_comparison, report_results
from study.command_line.waiting import WaitingLine
from study.driver.device import check_gpus
from study.driver.interruption import ended_by_signals
from study.driver.invocation import Invocation
from study.driver.quiet_output import quiet_output
from study.driver.study_data import check_study_source, is_size_known, load_study_data
from study.folder.driver_log import kept_log
from study.folder.ledger import Ledger, consolidate
from study.folder.model_and_samples import write_telling_images
from study.folder.progress_file import ProgressFile, StudyState
from study.folder.study_record import IncomparableError, build_study, extend_study
from study.plan.calibration import calibrate
from study.plan.description import describe_header, describe_plan, gpu_notes
from study.plan.earlier_trials import read_epoch_times
from study.plan.epoch_times import find_hardware
from study.plan.estimate import NoSpaceError, list_work
from study.plan.resources import (
    Machine,
    ResourceError,
    TrialResources,
    default_precision,
    divide_resources,
    inspect_machine,
    resolve_gpus_per_trial,
)
from study.spec.errors import SpecError
from study.spec.run_settings import RunSettings
from study.spec.study_spec import StudySpec
from study.storage.location import find_store
from study.storage.study_lock import StudyLockedError
from study.tracking.mirror import Mirror
from study.tracking.mode import check_offline, choose_mode
from trainable.data.data_set import DataError

if TYPE_CHECKING:
    from study.driver.phases import Phases

_USER_ERRORS = (
    SpecError, DataError, ResourceError, StudyFolderError, IncomparableError, StudyLockedError, NoSpaceError,
    ClusterUnusableError,
)  # fmt: skip


def main(arguments: list[str] | None = None, progress_copy: Path | None = None) -> int:
    """Run the command line; returns the exit status. `progress_copy` is a file to keep a copy of progress.json in."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    progress_file = ProgressFile(progress_copy)
    try:
        with ended_by_signals(), progress_file.ending():
            return _run(options, arguments, progress_file)
    except _USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader has seen enough, as in `--plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor is there anything to say at the exit
        return OK if options.plan else BAD_INPUT
    except OSError as error:  # a StorageError names its file itself
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror or error}"
        print(f"error: {said}; what was saved is kept, the same command goes on", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace, arguments: list[str], progress_file: ProgressFile) -> int:
    specify = read_study(options)  # once: the grid's file may change while a cluster is joined
    asked, settings = specify(), read_settings(options)  # what can be refused is, before a cluster is joined
    check_offline(choose_mode(settings.wandb), settings.results)
    source = check_study_source(asked, settings.data)
    read = None if is_size_known(asked) else load_study_data(asked, settings.data)
    store = find_store(settings.results, asked.name)
    if not settings.plan:
        store.check_writable(settings.results)
    with _machine(settings, progress_file) as machine, nullcontext() if settings.plan else quiet_output():
        spec, resources = _specify(specify, asked, settings, machine)
        if spec.search is not None:
            _check_search(spec, settings, machine, resources)
        print(describe_header(spec, resources, machine, f"{settings.results.rstrip('/')}/{spec.name}"))
        times = read_epoch_times(settings.results, find_hardware(machine, resources))
        if settings.plan:
            print(f"data      {source}")
            speeds = None
            if settings.calibrate:
                data = read or load_study_data(spec, settings.data)
                unfit = check_gpus(machine, resources, print)
                speeds = calibrate(list_work(spec), data, machine, resources, times, unfit)
            for line in describe_plan(spec, resources, machine, speeds, times):
                print(line)
            return OK
        for line in (*gpu_notes(machine, resources), *times.left_out, *spec.without_effect()):
            print(line)
        data = read or load_study_data(spec, settings.data)
        check_links(store.folder)
        with (
            store.open() as lock,
            Mirror(store.folder, choose_mode(settings.wandb), settings.wandb_project, shown=store.shown) as mirror,
            live_page(str(store.folder.path.parent)) if settings.serve else nullcontext(),
            LocalRay(machine, resources, verbose=settings.verbose) as ray,
        ):
            invocation = Invocation(
                settings=settings, arguments=arguments, command=f"{program_name('run')} {shlex.join(arguments)}",
                store=store, lock=lock, data=data, machine=machine, resources=resources, ray=ray, times=times,
                mirror=mirror, progress_file=progress_file,
            )  # fmt: skip
            return _run_trials(invocation, spec)


@contextmanager
def _machine(settings: RunSettings, progress_file: ProgressFile) -> Iterator[Machine]:
    """What the trials run on: this machine, or the cluster at --address for as long as they run."""
    if settings.address is None:
        yield inspect_machine(settings.gpus_per_trial)
        return
    with ExitStack() as stack:
        with WaitingLine(f"the cluster at {settings.address} is joined"):
            machine = stack.enter_context(joined_cluster(settings.address, verbose=settings.verbose))
        if settings.plan:
            yield machine
            return
        from study.cluster.nodes import wait_for_node

        with WaitingLine("no node fits yet; the cluster's autoscaler is asked for one") as line:

            def say_waiting(text: str) -> None:
                line.say(text)
                progress_file.change(state=StudyState.WAITING_FOR_NODE)

            machine = wait_for_node(machine, resolve_gpus_per_trial(machine, settings.gpus_per_trial), say_waiting)
        progress_file.change(state=StudyState.CHECKING)
        yield machine


def _specify(
    specify: Callable[..., StudySpec], asked: StudySpec, settings: RunSettings, machine: Machine
) -> tuple[StudySpec, TrialResources]:
    """What is studied, and what each trial gets. What a trial gets decides on the precision that the command line left open."""
    num_trials = asked.search.trials or machine.num_cpus if asked.search else len(list_work(asked))
    resources = divide_resources(
        machine, num_trials, gpus_per_trial=settings.gpus_per_trial, max_concurrent=settings.max_concurrent
    )
    precision = default_precision(machine, resources, asked.gpu_precision)
    return specify(defaults={"precision": precision}), resources


def _check_search(spec: StudySpec, settings: RunSettings, machine: Machine, resources: TrialResources) -> None:
    from study.driver.search_phase import check_search  # Optuna takes a second to import

    check_search(spec, settings, machine, resources)


def _run_trials(invocation: Invocation, spec: StudySpec) -> int:
    """The search, if there is one, then the trials that are missing, then the report; returns the exit status."""
    from study.driver.phases import run_phases  # imports rich

    settings, folder = invocation.settings, invocation.store.folder
    study = build_study(spec, invocation.data, invocation.machine, invocation.resources)
    invocation.repair()
    if folder.exists():
        study = extend_study(folder.read_study(), study, accept_changes=settings.accept_changes)
    progress_file = invocation.progress_file
    log = kept_log(folder.path, invocation.command) if progress_file.is_of_job else nullcontext()
    with log, progress_file.kept_in(folder.path, lambda: invocation.lock.lost):
        status = _end(invocation, run_phases(invocation, spec, study))
        progress_file.end(STATES[status])
    return status


def _end(invocation: Invocation, phases: Phases) -> int:
    """Say how the study has ended, with its report if it has; the exit status."""
    if not phases.ledgers:  # a search that is not over has said so
        return INTERRUPTED if phases.interrupted else SOME_FAILED
    if phases.interrupted:
        return _say_interrupted(invocation, phases.ledgers)
    invocation.ray.end()
    status = _report(invocation, phases.ledgers)
    invocation.mirror.finish()
    return status


def _say_interrupted(invocation: Invocation, ledgers: Sequence[Ledger]) -> int:
    planned = {state.trial_id for ledger in ledgers for state in (*ledger.done, *ledger.to_run)}
    states = [state for state in consolidate(invocation.store.folder) if state.trial_id in planned]
    done = sum(state.finished for state in states)
    print(
        f"interrupted: {done} of {sum(ledger.total for ledger in ledgers)} trials done, every finished epoch is kept; this goes on:"
    )
    print(f"  {invocation.command}")
    return INTERRUPTED


def _report(invocation: Invocation, ledgers: Sequence[Ledger]) -> int:
    """Gather the records, write the report if it is wanted, print the comparison; the exit status says whether all trials have ended."""
    planned = {state.trial_id for of in ledgers for state in (*of.done, *of.to_run, *of.left_failed)}
    store = invocation.store
    everything = consolidate(store.folder)
    states = [state for state in everything if state.trial_id in planned]
    unfinished = [state for state in states if not state.finished]
    unfinished += [state for state in everything if state.role == "search" and state.status == "failed"]
    write_telling_images(store.folder, invocation.data)
    made: Path | str
    if invocation.settings.report:
        made = report_results(store.folder)
    else:
        print_comparison(store.folder)
        made = f"`study report {shlex.quote(store.shown)}` makes it"
    for line in describe_unfinished(store.folder, unfinished):
        print(line)
    for state in states:
        for note in state.notes:
            print(f"note: seed {state.config.seed}, trial {state.trial_id}: {note}")
    print(f"report        {made}")
    print(f"study folder  {store.shown}")
    return SOME_FAILED if unfinished else OK


if __name__ == "__main__":
    sys.exit(main())
