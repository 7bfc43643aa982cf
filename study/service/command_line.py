"""What the commands of the service share: how a cluster is named, and that every mistake is one line and status 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from study.command_line.exit_status import BAD_INPUT, INTERRUPTED, OK
from study.command_line.program import program_name
from study.command_line.waiting import WaitingLine
from study.service.connection import DEFAULT_CLUSTER, Cluster, ClusterError, connect
from study.service.study_jobs import StudyJob, exit_status, parse_job

CLUSTER_VARIABLE = "STUDY_CLUSTER"


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """--cluster and --token-file."""
    parser.add_argument(
        "--cluster", metavar="URL", default=os.environ.get(CLUSTER_VARIABLE) or DEFAULT_CLUSTER,
        help=f"the cluster's dashboard (default: ${CLUSTER_VARIABLE}, else {DEFAULT_CLUSTER})",
    )  # fmt: skip
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE",
        help="the cluster's token (default: $RAY_AUTH_TOKEN, $RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)",
    )  # fmt: skip


def connect_as_asked(options: argparse.Namespace) -> Cluster:
    """The cluster of --cluster and --token-file. Errors: ClusterError."""
    return connect(options.cluster, options.token_file)


def guarded(command: Callable[[], int], *errors: type[Exception]) -> int:
    """Run a command; the given errors and those of the cluster become one line and status 2."""
    expected: tuple[type[Exception], ...] = (ClusterError, *errors)
    try:
        return command()
    except expected as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # as in `... | head`
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the interpreter's own flush at its end
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


def follow(cluster: Cluster, found: StudyJob) -> int:
    """Print what a study prints until it ends; its exit status. Ctrl-C leaves the study alone and says so."""
    try:
        with WaitingLine(f"nothing new from study {found.study}", terminal_only=True) as line:
            for text in cluster.follow_log(found.job):
                line.hide()
                print(text, end="", flush=True)
    except KeyboardInterrupt:
        say_goes_on(found)
        return OK
    return exit_status(parse_job(cluster.wait(found.job, 60.0)))


def say_goes_on(found: StudyJob) -> None:
    """After Ctrl-C of somebody who was only looking on."""
    print(
        f"\nnot followed any more; study {found.study} goes on: {program_name('status')} {found.study} tells how far it "
        f"is, {program_name('stop')} {found.study} ends it",
        file=sys.stderr,
    )
