"""`python -m study.stop NAME`: ends a study on a Ray cluster as Ctrl-C ends it here: every trial saves its last epoch first.

The same `study.submit` goes on with it. Exit status: 0 stopped, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys

from study.command_line.program import program_name
from study.service.command_line import add_cluster_options, connect_as_asked, guarded
from study.service.connection import Cluster, ClusterError
from study.service.study_jobs import find_study, read_progress

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
    cluster.stop(found.job)
    cluster.wait(found.job, _TIMEOUT_S)
    progress = read_progress(cluster, found)
    known = progress if progress and progress.num_trials is not None else None
    done = f"{known.num_done} of {known.num_trials} trials done, " if known else ""
    print(f"stopped: {done}every finished epoch is kept; the same {program_name('submit')} goes on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
