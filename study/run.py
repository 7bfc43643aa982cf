"""`python -m study.run`: a grid -> trials on Ray Tune -> tables, figures and a report. See `--help`.

Reads top to bottom: options, specification, plan, data, study folder, trials, report.
Exit status: 0 every trial has ended (diverged is an end too), 3 some failed or a search is not over, 2 bad input or storage that
cannot be written, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, TextIO, cast

from analysis.design.confounds import find_confounds
from analysis.design.grid_text import write_grid
from analysis.records.study_folder import StudyFolderError, check_links
from study.cluster.session import ClusterError, joined_cluster
from study.command_line.exit_status import BAD_INPUT, INTERRUPTED, OK, SOME_FAILED
from study.command_line.options import build_parser, build_study_spec, check_run_options
from study.driver.interruption import ended_by_signals
from study.driver.invocation import Attempt, artifacts, repair, run_missing, search
from study.folder.ledger import Ledger, consolidate, open_ledger
from study.folder.study_record import IncomparableError, build_study, extend_study
from study.plan import estimate as plan
from study.plan.calibration import Speed, SpeedKey, calibrate
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
from study.spec.search_space import list_corners
from study.spec.study_spec import StudySpec
from study.storage.location import find_store
from study.storage.object_store import StorageError
from study.storage.study_lock import StudyLockedError
from study.storage.study_store import StudyStore
from study.tracking.mirror import Mirror
from study.tracking.mode import check_offline, choose_mode
from trainable.data.data_set import DataError, check_source, load_data, split_data

if TYPE_CHECKING:
    from trainable.data.image_data import ImageData

_USER_ERRORS = (
    SpecError, DataError, ResourceError, StudyFolderError, IncomparableError, StudyLockedError, plan.NoSpaceError,
    ClusterError,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    try:
        with ended_by_signals():
            return _run(options, arguments)
    except _USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # the reader has seen enough, as in `--plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor is there anything to say at the exit
        return OK if options.plan else BAD_INPUT
    except StorageError as error:
        print(f"error: {error}; what was saved is kept, the same command goes on", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror or error}; what was saved is kept, the same command goes on",
            file=sys.stderr,
        )
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    spec = build_study_spec(options)
    check_run_options(options)
    with _machine(options) as machine, nullcontext() if options.plan else _unread_output():
        return _run_on(machine, spec, options, arguments)


@contextmanager
def _unread_output() -> Iterator[None]:
    """What is printed to a reader that has gone, as `tee` after Ctrl-C, is dropped: first of all trials are saved."""
    from study.driver.progress import QuietOutput  # imports rich

    output = sys.stdout
    try:
        with redirect_stdout(cast(TextIO, QuietOutput(output))):
            yield
    finally:
        try:
            output.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # for the interpreter's own flush at its end


@contextmanager
def _machine(options: argparse.Namespace) -> Iterator[Machine]:
    """What the trials run on: this machine, or the cluster at --address for as long as they run."""
    if options.address is None:
        yield inspect_machine(options.gpus_per_trial)
        return
    with joined_cluster(options.address, verbose=options.verbose) as machine:
        if options.plan:
            yield machine
            return
        from study.cluster.autoscaler import wait_for_node

        yield wait_for_node(machine, resolve_gpus_per_trial(machine, options.gpus_per_trial), print)


def _run_on(machine: Machine, spec: StudySpec, options: argparse.Namespace, arguments: list[str]) -> int:
    resources = divide_resources(
        machine, spec.search.trials or machine.num_cpus if spec.search else len(spec.trial_configs()),
        gpus_per_trial=options.gpus_per_trial, max_concurrent=options.max_concurrent,
    )  # fmt: skip
    spec = build_study_spec(options, default_precision(machine, resources))
    store = find_store(options.results, spec.name)
    check_offline(choose_mode(options.wandb), options.results)
    folder = store.folder
    if spec.search is not None:
        _check_search(spec, options, machine, resources)
    source = _check_source(spec, options)
    print(plan.describe_header(spec, resources, machine, f"{options.results.rstrip('/')}/{spec.name}"))
    if options.plan:
        _print_plan(spec, resources, machine, source, _calibrate(spec, resources, options))
        return OK
    store.check_writable(options.results)
    for line in plan.gpu_notes(machine, resources):
        print(line)

    data = _load_data(spec, options)
    study = build_study(spec, data, machine, resources)
    check_links(folder)
    with (
        store.open() as lock,
        Mirror(folder, choose_mode(options.wandb), options.wandb_project, shown=store.shown) as mirror,
    ):
        repair(store)
        if folder.exists():
            study = extend_study(folder.read_study(), study, accept_changes=options.accept_changes)
        attempts = len(study.attempts)
        attempt = Attempt(options, arguments, data, store, machine, resources, lock, mirror)
        if spec.search is not None:
            found = search(attempt, spec, study)
            if isinstance(found, int):
                return found
            study, spec = found
        retry, role = options.retry_failed == "yes", "confirmation" if spec.search else "grid"
        ledger = open_ledger(folder, spec.trial_configs(), data.fingerprint, retry_failed=retry, role=role)
        if not ledger.to_run:
            print(f"nothing to run: {len(ledger.done)} of {ledger.total} trials are done")
            with artifacts(attempt):
                pass
        elif not run_missing(attempt, study, ledger, noted=len(study.attempts) > attempts):
            return _say_interrupted(attempt, ledger)
        status = _report(store, ledger)
        mirror.finish()
        return status


def _report(store: StudyStore, ledger: Ledger) -> int:
    """Gather the records, write the report, print the comparison; the exit status says whether all trials are done."""
    from analysis.report.page import write_report
    from analysis.results.formats import to_text
    from analysis.tables.tables import build_tables

    folder = store.folder
    planned = {state.trial_id for state in (*ledger.done, *ledger.to_run, *ledger.left_failed)}
    everything = consolidate(folder)
    states = [state for state in everything if state.trial_id in planned]
    unfinished = [state for state in states if not state.finished]
    unfinished += [state for state in everything if state.role == "search" and state.status == "failed"]
    page = write_report(folder)
    comparison = build_tables(folder, ["comparison"])["comparison"]
    print()
    print(to_text(comparison, width=shutil.get_terminal_size((120, 24)).columns))
    for state in unfinished:
        print(f"{state.status}: seed {state.config.seed}, trial {state.trial_id}: {state.reason or 'not run'}")
    for state in states:
        for note in state.notes:
            print(f"note: seed {state.config.seed}, trial {state.trial_id}: {note}")
    print(f"report        {page}")
    print(f"study folder  {store.shown}")
    return SOME_FAILED if unfinished else OK


def _check_search(spec: StudySpec, options: argparse.Namespace, machine: Machine, resources: TrialResources) -> None:
    from study.driver.search_phase import check_budget, check_workers

    assert spec.search is not None
    if options.calibrate and options.plan:
        raise SpecError(
            "--calibrate: the plan of a search cannot be timed yet, its trials differ in speed; leave it out"
        )
    check_workers(options.max_concurrent, machine, resources)
    check_budget(spec.search, resources)


def _print_plan(
    spec: StudySpec, resources: TrialResources, machine: Machine, source: str, speeds: dict[SpeedKey, Speed] | None
) -> None:
    configs = spec.trial_configs()
    print(f"data      {source}")
    if spec.search is not None:
        print("\n".join(plan.describe_search(spec, resources)))
        return
    for line in plan.describe_cost(plan.estimate_cost(configs, resources, speeds), resources, len(configs)):
        print(line)
    for line in [*plan.gpu_notes(machine, resources), *spec.reductions]:
        print(f"note      {line}")
    print("\n".join(["", *plan.describe_trials(spec)]))
    confounds = find_confounds(spec.cells, spec.factors, plan.nominal_train_images(configs[0]))
    if confounds:
        print("\n".join(["", *confounds.sentences]))
    if confounds.extra_cells:
        print("\nA grid that tells them apart, to save as a FILE.toml for --grid:\n")
        print(write_grid(confounds, spec.cells, name=spec.name, title=spec.title, seeds=spec.seeds,
                         margin=spec.equivalence_margin))  # fmt: skip


def _calibrate(spec: StudySpec, resources: TrialResources, options: argparse.Namespace) -> dict[SpeedKey, Speed] | None:
    if not options.calibrate:
        return None
    return calibrate(spec.trial_configs(), _load_data(spec, options), resources, plan.reference_rate)


def _check_source(spec: StudySpec, options: argparse.Namespace) -> str:
    datasets = {cell.config["dataset"] for cell in spec.cells}
    if len(datasets) > 1:
        raise SpecError("a study has one data set; make one study for each of them")
    return check_source(datasets.pop(), options.data)


def _load_data(spec: StudySpec, options: argparse.Namespace) -> ImageData:
    data = load_data(spec.cells[0].config["dataset"], options.data)
    try:
        corners = list_corners(spec.search.space, spec.search_base) if spec.search else []
        for config in (*spec.trial_configs()[: len(spec.cells)], *corners):
            split_data(data, config)  # refuses limits that this data cannot meet, before any trial starts
    except ValueError as error:
        raise SpecError(str(error)) from error
    return data


def _say_interrupted(attempt: Attempt, ledger: Ledger) -> int:
    planned = {state.trial_id for state in (*ledger.done, *ledger.to_run)}
    states = [state for state in consolidate(attempt.store.folder) if state.trial_id in planned]
    done = sum(state.finished for state in states)
    print(f"interrupted: {done} of {ledger.total} trials done, every finished epoch is kept; this goes on:")
    print(f"  {attempt.command}")
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
