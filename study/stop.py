"""`python -m study.stop NAME`: ends a study on a Ray cluster as Ctrl-C ends it here: every trial saves its last epoch first.

The same `study.submit` goes on with it. Exit status: 0 stopped, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import time

from study.command_line.program import program_name
from study.command_line.waiting import WaitingLine
from study.service.command_line import add_cluster_options, connect_as_asked, guarded
from study.service.connection import POLL_S, Cluster, ClusterError
from study.service.study_jobs import find_study, parse_job, read_progress

_TIMEOUT_S = 180.0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("stop"),
        description="Stop a study on a Ray cluster; its trials save first, and the same submit goes on with it.",
    )
    parser.add_argument("name", metavar="NAME", help="the study")
    add_cluster_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    return guarded(lambda: _stop(connect_as_asked(options), options.name))


def _stop(cluster: Cluster, name: str) -> int:
    found = find_study(cluster, name)
    if not found.active:
        raise ClusterError(f"study {name!r} does not run ({found.state} since {found.started_at})")
    before = read_progress(cluster, found)
    cluster.stop(found.job)
    with WaitingLine(f"study {name} ends") as line:
        _await_end(cluster, found.job, before.num_running if before else 0, line)
        progress = read_progress(cluster, found)
    known = progress if progress and progress.num_trials is not None else None
    done = f"{known.num_done} of {known.num_trials} trials done, " if known else ""
    print(f"stopped: {done}every finished epoch is kept; the same {program_name('submit')} goes on")
    return 0


def _await_end(cluster: Cluster, job: str, num_saving: int, line: WaitingLine) -> None:
    """Return when the job has ended; until then say how many of the trials that ran have saved. Errors: ClusterError."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        found = parse_job(cluster.read_job(job))
        if not found.active:
            return
        if time.monotonic() > deadline:
            raise ClusterError(
                f"study {found.study!r} has not ended within {_TIMEOUT_S:g} s; it may still do: {program_name('status')} "
                f"{found.study}"
            )
        progress = read_progress(cluster, found)
        if num_saving and progress:
            num_saved = num_saving - min(progress.num_running, num_saving)
            saving = f"trials are saving: {num_saved} of {num_saving}"
            line.say(
                saving if num_saved < num_saving else f"all {num_saving} trials have saved; their records are gathered"
            )
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
