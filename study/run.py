"""`python -m study.run`: a grid -> trials on Ray Tune -> tables, figures and a report. See `--help`.

Reads top to bottom: options, specification, plan, data, study folder, trials, report.
Exit status: 0 all trials completed, 3 some failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from analysis.confounds import find_confounds
from analysis.grid_text import write_grid
from analysis.study_folder import StudyFolder, StudyFolderError, check_links
from study import plan
from study.calibration import Speed, SpeedKey, actual_training_s, calibrate
from study.cluster import ClusterError, joined_cluster
from study.grid_file import SpecError, list_grids, load_grid, parse_seeds
from study.ledger import Ledger, consolidate, open_ledger, register_trials
from study.lock import StudyLock, StudyLockedError
from study.node_probe import check_nodes
from study.remote_folder import StorageError
from study.remote_lock import RemoteLock
from study.repair import write_study
from study.resources import (
    DEFAULT_GPUS_PER_TRIAL,
    Machine,
    ResourceError,
    TrialResources,
    divide_resources,
    inspect_machine,
)
from study.search_space import list_corners
from study.spec import StudySpec, build_spec
from study.study_place import StudyPlace, UrlPlace, find_place
from study.study_record import IncomparableError, build_study, describe_attempt, extend_study, with_attempt
from study.tracking.mirror import Mirror
from study.tracking.mode import CHOICES, DEFAULT_PROJECT, check_offline, choose_mode
from trainable.config import FIELDS, parse_override
from trainable.data import DataError, check_source, load_data, split_data
from trainable.trial_state import read_state

if TYPE_CHECKING:
    from analysis.study_folder import StudyInfo
    from study.driver import RunOptions
    from trainable.image_data import ImageData

_USER_ERRORS = (
    SpecError, DataError, ResourceError, StudyFolderError, IncomparableError, StudyLockedError, plan.NoSpaceError,
    ClusterError,
)  # fmt: skip
DEFAULT_RESULTS = Path("results")
OK, BAD_INPUT, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m study.run",
        description="Run a grid of training configurations as Ray Tune trials and report on them.",
        epilog="fields for --set: " + ", ".join(f"{name}={spec.default}" for name, spec in FIELDS.items()),
    )
    parser.add_argument("--grid", required=True, metavar="NAME|FILE", help=f"{', '.join(list_grids())}, or a TOML file")
    parser.add_argument("--seeds", metavar="N|LIST", help="number of seeds, or a list such as 0,1,5")
    parser.add_argument("--epochs", metavar="N", help="as --set epochs=N")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for all trials; repeatable"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with CIFAR-10; default: cache, else download")
    parser.add_argument(
        "--results",
        default=str(DEFAULT_RESULTS),
        metavar="DIR|URL",
        help="parent of the study folder; also s3://, gs://, ...",
    )
    parser.add_argument("--name", help="name of the study folder; default: the grid's name and the overrides")
    parser.add_argument(
        "--search", choices=("optuna", "none"), help="search the ranges of the grid; none: run its cells only"
        " (default: search where the grid has [search])",
    )  # fmt: skip
    parser.add_argument(
        "--trials", type=int, metavar="N", help="searched trials in all; more than before extends a search"
    )
    parser.add_argument("--plan", action="store_true", help="print what would run and what it costs; run nothing")
    parser.add_argument(
        "--calibrate", action="store_true", help="time a few steps here first and estimate from them; also with --plan"
    )
    parser.add_argument(
        "--address", metavar="auto|HOST:PORT",
        help="run the trials on this running Ray cluster; --results must then be on storage that its nodes share",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-trial", type=float, metavar="G", help="GPUs of a trial, also a part of one (default: 0)"
    )
    parser.add_argument(
        "--max-concurrent", type=int, metavar="N", help="trials at the same time (default: as many as fit)"
    )
    parser.add_argument(
        "--retry-failed", choices=("yes", "no"), default="yes", help="run failed trials again (default: yes)"
    )
    parser.add_argument(
        "--accept-changes", action="store_true", help="go on with a study made with other data, code or torch"
    )
    parser.add_argument(
        "--checkpoint-interval", type=float, default=30.0, metavar="S", help="seconds between checkpoints (default: 30)"
    )
    parser.add_argument(
        "--max-failures", type=int, default=2, metavar="N", help="retries of a failing trial (default: 2)"
    )
    parser.add_argument(
        "--trial-timeout", type=float, metavar="S",
        help="end an attempt that finishes no epoch for so long, as a failure (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--wandb", choices=CHOICES, help="mirror to W&B; auto: online where a key is configured, else offline "
        "(default: online with a key, else off; `python -m study.tracking sync` makes the runs at any time)",
    )  # fmt: skip
    parser.add_argument(
        "--wandb-project", metavar="NAME", help=f"W&B project (default: as before, $WANDB_PROJECT or {DEFAULT_PROJECT})"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show what Ray says")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    try:
        with _terminable():
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


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, before and after the trials too."""
    from study.driver import interrupting_signals

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in interrupting_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    spec = build_study_spec(options)
    check_run_options(options)
    with _machine(options) as machine, nullcontext() if options.plan else _unread_output():
        return _run_on(machine, spec, options, arguments)


@contextmanager
def _unread_output() -> Iterator[None]:
    """What is printed to a reader that has gone, as `tee` after Ctrl-C, is dropped: first of all trials are saved."""
    from study.progress import QuietOutput  # imports rich

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
        yield inspect_machine()
        return
    with joined_cluster(options.address, verbose=options.verbose) as machine:
        if options.plan:
            yield machine
            return
        from study.autoscaler import wait_for_node

        yield wait_for_node(machine, options.gpus_per_trial or DEFAULT_GPUS_PER_TRIAL, print)


def _run_on(machine: Machine, spec: StudySpec, options: argparse.Namespace, arguments: list[str]) -> int:
    resources = divide_resources(
        machine, spec.search.trials or machine.num_cpus if spec.search else len(spec.trial_configs()),
        gpus_per_trial=options.gpus_per_trial, max_concurrent=options.max_concurrent,
    )  # fmt: skip
    place = find_place(options.results, spec.name)
    check_offline(choose_mode(options.wandb), options.results)
    folder = place.folder
    if spec.search is not None:
        _check_search(spec, options, machine, resources)
    source = _check_source(spec, options)
    print(plan.describe_header(spec, resources, machine, f"{options.results.rstrip('/')}/{spec.name}"))
    if options.plan:
        _print_plan(spec, resources, machine, source, _calibrate(spec, resources, options))
        return OK
    _check_writable(options.results, place)
    if unused := plan.gpus_unused(machine, resources):
        print(unused)

    data = _load_data(spec, options)
    study = build_study(spec, data, machine, resources)
    check_links(folder)
    with (
        place.open() as lock,
        Mirror(folder, choose_mode(options.wandb), options.wandb_project, shown=place.shown) as mirror,
    ):
        _repair(place)
        if folder.exists():
            study = extend_study(folder.read_study(), study, accept_changes=options.accept_changes)
        attempts = len(study.attempts)
        if spec.search is not None:
            found = _search(spec, study, data, place, machine, resources, lock, mirror, options, arguments)
            if isinstance(found, int):
                return found
            study, spec = found
        retry, role = options.retry_failed == "yes", "confirmation" if spec.search else "grid"
        ledger = open_ledger(folder, spec.trial_configs(), data.fingerprint, retry_failed=retry, role=role)
        if not ledger.to_run:
            print(f"nothing to run: {len(ledger.done)} of {ledger.total} trials are done")
        elif not _run_missing(
            study, ledger, data, place, machine, resources, lock, mirror, options, arguments,
            noted=len(study.attempts) > attempts,
        ):  # fmt: skip
            return _say_interrupted(folder, ledger, arguments)
        status = _report(place, ledger)
        mirror.finish()
        return status


def _search(
    spec: StudySpec, study: StudyInfo, data: ImageData, place: StudyPlace, machine: Machine, resources: TrialResources,
    lock: StudyLock | RemoteLock, mirror: Mirror, options: argparse.Namespace, arguments: list[str],
) -> tuple[StudyInfo, StudySpec] | int:  # fmt: skip
    """Search until the budget is spent; the study with the winners as cells, or an exit status when it ended before that."""
    from study.search import add_winners, describe_end, describe_start, run_search
    from study.search_journal import SearchJournal

    folder = place.folder
    if folder.trials.is_dir():
        consolidate(folder)  # it rebuilds records that are damaged, from which the journal may have to be made again
    interrupted = False
    journal = SearchJournal(folder, spec, data.fingerprint, place.change_trial)
    if not journal.over:
        if machine.is_cluster:
            check_nodes(place.storage, lock.token)
        plan.check_space(folder.path, place.disk_bytes([plan.searched_config(spec)] * journal.num_to_run))
        write_study(folder, with_attempt(study, describe_attempt(arguments, journal.num_to_run)))
        print(describe_start(journal, spec, resources))
        mirror.start()
        interrupted = not run_search(
            journal, spec, data, place, machine, resources, lock, _run_options(options, mirror)
        )
        _check_kept(place, lock)
        consolidate(folder)
    print(describe_end(journal, width=shutil.get_terminal_size((120, 24)).columns))
    if not journal.over:
        print(f"the search is not over; every finished epoch is kept, and this goes on:\n  {_command(arguments)}")
        return INTERRUPTED if interrupted else SOME_FAILED
    found = add_winners(spec, journal)
    known = folder.read_study()
    return extend_study(known, build_study(found, data, machine, resources), accept_changes=True), found


def _check_search(spec: StudySpec, options: argparse.Namespace, machine: Machine, resources: TrialResources) -> None:
    from study.search import check_budget, check_workers

    assert spec.search is not None
    if options.calibrate and options.plan:
        raise SpecError(
            "--calibrate: the plan of a search cannot be timed yet, its trials differ in speed; leave it out"
        )
    check_workers(options.max_concurrent, machine, resources)
    check_budget(spec.search, resources)


def _repair(place: StudyPlace) -> None:
    for line in place.repair():
        print(f"repaired: {line}")


def _run_missing(
    study: StudyInfo, ledger: Ledger, data: ImageData, place: StudyPlace, machine: Machine, resources: TrialResources,
    lock: StudyLock | RemoteLock, mirror: Mirror, options: argparse.Namespace, arguments: list[str], *, noted: bool,
) -> bool:  # fmt: skip
    """Note the attempt in study.json, unless it is `noted`, and run what is to run; False when the user interrupted."""
    folder = place.folder
    if machine.is_cluster:
        check_nodes(place.storage, lock.token)
    missing = [plan.rest_of_trial(s.config, s.epochs_completed) for s in ledger.to_run]
    speeds = calibrate(missing, data, resources, plan.reference_rate) if options.calibrate else None
    cost = plan.estimate_cost(missing, resources, speeds)
    plan.check_space(folder.path, place.disk_bytes(missing))
    write_study(folder, study if noted else with_attempt(study, describe_attempt(arguments, len(ledger.to_run))))
    _print_start(ledger, cost, resources)
    if not mirror.started:
        mirror.start()
    try:
        finished = _run_trials(study, ledger, data, place, machine, resources, lock, mirror, options)
        place.fetch()
    except OSError:
        if folder.exists():
            raise
        finished = False
    _check_kept(place, lock)
    _repair(place)
    after = [state for state in map(read_state, map(folder.trial, (s.trial_id for s in ledger.to_run))) if state]
    if finished and (line := plan.compare_time(cost, actual_training_s(ledger.to_run, after))):
        print(line)
    return finished


def _check_kept(place: StudyPlace, lock: StudyLock | RemoteLock) -> None:
    if lock.lost or not place.folder.exists():
        raise StudyFolderError(
            f"{place.shown}: removed or taken over by another driver while its trials ran; the same command starts it again"
        )


def _run_options(options: argparse.Namespace, mirror: Mirror) -> RunOptions:
    from study.driver import RunOptions

    return RunOptions(
        options.checkpoint_interval, options.max_failures, options.trial_timeout,
        max_concurrent=options.max_concurrent, verbose=options.verbose, mirror=mirror,
    )  # fmt: skip


def _run_trials(
    study: StudyInfo, ledger: Ledger, data: ImageData, place: StudyPlace, machine: Machine, resources: TrialResources,
    lock: StudyLock | RemoteLock, mirror: Mirror, options: argparse.Namespace,
) -> bool:  # fmt: skip
    """Run what is to run; False when the user interrupted."""
    from rich.console import Console

    from study.artifacts import model_tables, write_samples
    from study.driver import run_trials
    from study.progress import Progress

    folder = place.folder
    register_trials(folder, ledger.to_run)
    for state in ledger.to_run:
        if state.status == "failed" or state.role != "grid":  # pending again, or of a role that its node must know
            place.put_trial(state.trial_id)
    write_samples(folder, data)
    shown = sorted((*ledger.done, *ledger.left_failed, *ledger.to_run), key=lambda state: state.config.seed)
    with (
        model_tables(folder, {state.config.width for state in ledger.to_run}),
        Progress(Console(), shown, study.factors, resources.max_concurrent) as progress,
    ):
        return run_trials(place, ledger.to_run, data, machine, resources, lock, progress, _run_options(options, mirror))


def _report(place: StudyPlace, ledger: Ledger) -> int:
    """Gather the records, write the report, print the comparison; the exit status says whether all trials are done."""
    from analysis.formats import to_text
    from analysis.report import write_report
    from analysis.tables import build_tables

    folder = place.folder
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
    print(f"study folder  {place.shown}")
    return SOME_FAILED if unfinished else OK


def build_study_spec(options: argparse.Namespace) -> StudySpec:
    """The specification that the command line asks for. Errors: SpecError."""
    texts = [*options.set, *([f"epochs={options.epochs}"] if options.epochs is not None else [])]
    try:
        overrides = dict(parse_override(text) for text in texts)
    except ValueError as error:
        raise SpecError(str(error)) from error
    return build_spec(
        load_grid(options.grid),
        name=options.name,
        seeds=None if options.seeds is None else parse_seeds(options.seeds),
        overrides=overrides,
        defaults={"precision": "bf16" if options.gpus_per_trial else "fp32"},
        trials=options.trials,
        searching={"optuna": True, "none": False}.get(options.search or ""),
    )


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
    for line in filter(None, [plan.gpus_unused(machine, resources), *spec.reductions]):
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


def _print_start(ledger: Ledger, cost: plan.Cost, resources: TrialResources) -> None:
    resumed = sum(state.epochs_completed > 0 for state in ledger.to_run)
    if ledger.done or resumed:
        print(
            f"goes on: {len(ledger.done)} trials done, {len(ledger.to_run)} to run, {resumed} of them from a checkpoint"
        )
    if cost.cpu_time_s is not None:
        print(f"training will take about {plan.format_duration(cost.cpu_time_s)} on {resources.max_concurrent} x "
              f"{resources.cpus_per_trial} CPU, {plan.describe_basis(cost)}; {plan.BESIDES_TRAINING}")  # fmt: skip


def check_run_options(options: argparse.Namespace) -> None:
    """Refuse numbers that make no sense. Errors: SpecError."""
    if options.max_failures < 0:
        raise SpecError(f"--max-failures {options.max_failures}: 0 or more retries")
    if not (math.isfinite(options.checkpoint_interval) and options.checkpoint_interval >= 0):
        raise SpecError(f"--checkpoint-interval {options.checkpoint_interval:g}: 0 or more seconds")
    if options.calibrate and options.address is not None:
        raise SpecError(
            "--calibrate times this machine, but with --address the trials run on others: leave one of them out"
        )
    if options.trial_timeout is not None and not options.trial_timeout > 0:
        raise SpecError(f"--trial-timeout {options.trial_timeout:g}: more than 0 seconds")


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


def _check_writable(results: str, place: StudyPlace) -> None:
    """Refuse results that cannot be written, without leaving anything behind."""
    if isinstance(place, UrlPlace):
        place.check_writable()
        return
    absolute = Path(results).absolute()
    existing = next(path for path in (absolute, *absolute.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise SpecError(f"--results {results}: {existing} is not writable ({error.strerror})") from error


def _say_interrupted(folder: StudyFolder, ledger: Ledger, arguments: list[str]) -> int:
    planned = {state.trial_id for state in (*ledger.done, *ledger.to_run)}
    states = [state for state in consolidate(folder) if state.trial_id in planned]
    done = sum(state.finished for state in states)
    print(f"interrupted: {done} of {ledger.total} trials done, every finished epoch is kept; this goes on:")
    print(f"  {_command(arguments)}")
    return INTERRUPTED


def _command(arguments: list[str]) -> str:
    return shlex.join(["python", "-m", "study.run", *arguments])


if __name__ == "__main__":
    sys.exit(main())
