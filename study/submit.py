"""`python -m study.submit`: `study.run` as a job of a Ray cluster; returns when it has begun. See `--help`.

Exit status: 0 submitted, and not refused by its own checks within their time, 2 bad input; with --follow that of the study.
"""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
import time
from pathlib import PurePosixPath

from analysis.records.study_folder import StudyFolderError
from study.command_line.exit_status import OK
from study.command_line.live_page import PAGE_PORT
from study.command_line.options import DEFAULTS, read_settings, read_study
from study.command_line.options import build_parser as build_run_parser
from study.command_line.program import program_name
from study.command_line.waiting import WaitingLine
from study.folder.progress_file import StudyState
from study.service.command_line import add_cluster_options, connect_as_asked, follow, guarded, say_goes_on
from study.service.connection import POLL_S, Cluster, ClusterError
from study.service.package import GRID_FILE, is_grid_file, stage_package
from study.service.remote import RESULTS_VARIABLE
from study.service.study_jobs import (
    DRIVER_FAILED,
    StudyJob,
    describe_study,
    find_state,
    list_studies,
    parse_job,
    read_progress,
    read_reason,
)
from study.spec.errors import SpecError
from study.spec.run_settings import RunSettings
from study.storage.location import check_plain_url
from study.tracking.mode import check_offline

# A study that is stopped saves every trial's last epoch and gathers its records first; Ray's own limit is 3 s.
_STOP_WAIT_S = 120
CHECKED_WITHIN_S = 120.0


def build_parser() -> argparse.ArgumentParser:
    """The options of this command alone; all others are those of study.run."""
    parser = argparse.ArgumentParser(
        prog=program_name("submit"), allow_abbrev=False,
        description="Run a study on a Ray cluster: the options of study.run, and those below.",
        epilog="--data and --results are folders on the cluster, seen by its head; --results defaults there to "
        f"${RESULTS_VARIABLE}, else ~/results. All other options: {program_name('run')} --help",
    )  # fmt: skip
    add_cluster_options(parser)
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--follow", action="store_true", help="print what the study prints until it ends")
    after.add_argument(
        "--no-wait",
        action="store_true",
        help="return before the cluster has checked data, results and the study's name",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options, study_arguments = build_parser().parse_known_args(arguments)
    return guarded(lambda: _submit(options, study_arguments), SpecError, StudyFolderError)


def _submit(options: argparse.Namespace, study_arguments: list[str]) -> int:
    study_options = build_run_parser().parse_args(study_arguments)
    settings = read_settings(study_options)
    _check_settings(settings)
    study = read_study(study_options)().name
    results = "" if settings.results == DEFAULTS.results else settings.results
    cluster = connect_as_asked(options)
    cluster.check_version()
    _refuse_second(cluster, study)
    job = f"study-{secrets.token_hex(6)}"
    with stage_package(study_options.grid) as folder, WaitingLine("the study's code is sent"):
        cluster.submit(
            shlex.join(_build_command(study_options.grid, study_arguments, results)),
            job=job,
            working_dir=folder,
            env={"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)},
            note=describe_study(study, results),
        )
    found = parse_job(cluster.read_job(job))
    _say_submitted(found, cluster, settings)
    if settings.serve:
        print(
            f"page     http://localhost:{PAGE_PORT}/ once that port of the head is forwarded, as the dashboard's; the log has the address"
        )
    if options.follow:
        return follow(cluster, found)
    if options.no_wait:
        return OK
    try:
        with WaitingLine("the study starts on the cluster") as line:
            return _await_checks(cluster, job, line)
    except KeyboardInterrupt:
        say_goes_on(found)
        return OK


def _await_checks(cluster: Cluster, job: str, line: WaitingLine) -> int:
    """Say whether the study has begun, waits for a node, or is not checked yet. Errors: ClusterError where it was refused."""
    deadline = time.monotonic() + CHECKED_WITHIN_S
    while time.monotonic() < deadline:
        found = parse_job(cluster.read_job(job))
        progress = read_progress(cluster, found)
        state = find_state(found, progress)
        if state in DRIVER_FAILED:
            raise ClusterError(f"study {found.study!r} has not begun: {read_reason(cluster, found, progress)}")
        # A job runs for some seconds before its driver does, and for a moment after it has written how it ended.
        told = not found.active or (progress is not None and not progress.state.ended)
        if told and state != StudyState.CHECKING:
            line.hide()
            print(f"state    {state}")
            return OK
        if told:
            line.say("the study checks its data, its results and its options")
        time.sleep(POLL_S)
    line.hide()
    print(
        f"state    not checked yet, after {CHECKED_WITHIN_S:g} s: {program_name('status')} {found.study} tells how it goes on"
    )
    return OK


def _check_settings(settings: RunSettings) -> None:
    """Refuse what makes no sense on a cluster. Errors: SpecError, StudyFolderError."""
    for name in ("plan", "calibrate"):
        if getattr(settings, name):
            raise SpecError(f"--{name} needs no cluster: {program_name('run')} --{name}")
    if settings.wandb == "offline":
        check_offline("offline", settings.results)
    if settings.address is not None:
        raise SpecError("--address is for drivers on the cluster; here --cluster names it")
    check_plain_url(settings.results)
    for name in ("data", "results"):
        path = getattr(settings, name)
        given = path is not None and str(path) != DEFAULTS.results
        if given and not (PurePosixPath(path).is_absolute() or str(path).startswith(("~", "$")) or "://" in str(path)):
            raise SpecError(
                f"--{name} {shlex.quote(str(path))}: is a folder on the cluster, seen by its head; give its whole path there"
            )


def _refuse_second(cluster: Cluster, study: str) -> None:
    for found in list_studies(cluster):
        if found.study == study and found.active:
            raise ClusterError(
                f"study {study!r} runs on {cluster.address} already, since {found.started_at}; follow it with "
                f"{program_name('logs')} {study} --follow, or give another --name"
            )


def _build_command(grid: str, arguments: list[str], results: str) -> list[str]:
    """The command that the job runs. Of an option that is given twice the last one counts."""
    travelled = ["--grid", GRID_FILE] if is_grid_file(grid) else []
    return ["python", "-m", "study.service.remote", "run", results, *arguments, *travelled]


def _say_submitted(found: StudyJob, cluster: Cluster, settings: RunSettings) -> None:
    data = (
        f"{settings.data} on the cluster's head, not here" if settings.data else "the head's cache, else its download"
    )
    print(found.study)
    print(f"job      {found.job} on {cluster.address}")
    print(f"data     {data}" if settings.data else f"data     as the grid says; a known set from {data}")
    print(f"results  {found.results or f'${RESULTS_VARIABLE} of the head, else ~/results there'}")
    print(f"go on    {program_name('status|logs|stop|pull')} {found.study} --cluster {cluster.address}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
