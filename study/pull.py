"""`python -m study.pull NAME`: fetch a study from a Ray cluster, over its Jobs API, into a folder here. See `--help`.

What comes are the records and tables, not the checkpoints; the report is made from the records here. A study that still runs
comes as far as it is. Exit status: 0, 2 bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.sources.pull import pull as take_over
from study.command_line.exit_status import OK
from study.command_line.program import program_name
from study.command_line.report import report_results
from study.command_line.waiting import SILENCE_S, WaitingLine
from study.service.command_line import add_cluster_options, connect_as_asked, guarded
from study.service.connection import STALL_TIMEOUT_S, Cluster, ClusterError
from study.service.package import stage_package
from study.service.study_jobs import find_study
from study.service.transfer import TransferError, receive_folder
from study.storage.location import check_plain_url


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("pull"), description="Fetch the records and tables of a study on a Ray cluster."
    )
    parser.add_argument("name", metavar="NAME", help="the study")
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder to put it in (default: results/NAME)")
    parser.add_argument(
        "--results", metavar="DIR",
        help="parent of the study folder on the cluster, for a study that this cluster did not run since its start",
    )  # fmt: skip
    parser.add_argument("--no-report", action="store_true", help="only fetch; `study report DIR` makes the report")
    add_cluster_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    return guarded(lambda: _pull(options), StudyFolderError, TransferError, OSError)


def _pull(options: argparse.Namespace) -> int:
    if Path(options.name).name != options.name:
        raise ClusterError(f"{options.name!r} is not the name of a study")
    check_plain_url(options.results or "")
    cluster = connect_as_asked(options)
    results = options.results if options.results is not None else find_study(cluster, options.name).results
    target = options.to or Path("results") / options.name
    with (
        tempfile.TemporaryDirectory(prefix="study-pull-") as staged,
        WaitingLine(f"the cluster is asked for study {options.name}") as line,
    ):
        num_bytes = _fetch(cluster, options.name, results, Path(staged), line)
        line.say("what came is checked")
        folder = take_over(staged, target)
    print(f"pulled {num_bytes / 1e6:.1f} MB to {folder.path}", flush=True)
    return OK if options.no_report else _report(folder)


def _fetch(cluster: Cluster, study: str, results: str, to: Path, line: WaitingLine) -> int:
    job = f"pull-{secrets.token_hex(6)}"
    command = shlex.join(["python", "-m", "study.service.remote", "send", results, study])
    with stage_package("") as folder:
        cluster.submit(command, job=job, working_dir=folder, env={}, note={})
    try:
        return receive_folder(_counted(cluster.follow_log(job, stall_s=STALL_TIMEOUT_S), line), to)
    finally:
        with contextlib.suppress(ClusterError):  # what was to be fetched is here
            cluster.stop(job)
            cluster.wait(job, 30.0)
            cluster.forget(job)


def _counted(chunks: Iterator[str], line: WaitingLine) -> Iterator[str]:
    """The same, and every two seconds how much has come: of four characters three bytes."""
    num_characters, said_at = 0, time.monotonic()
    for chunk in chunks:
        num_characters += len(chunk)
        if time.monotonic() - said_at > SILENCE_S:
            line.say(f"{num_characters * 3 / 4e6:.1f} MB have come")
            said_at = time.monotonic()
        yield chunk


def _report(folder: StudyFolder) -> int:
    if not folder.records("trials").exists():
        print("it has no records yet")
        return OK
    with WaitingLine("the report is made"):
        page = report_results(folder)
    print(f"report   {page}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
