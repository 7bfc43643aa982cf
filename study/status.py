"""`python -m study.status [NAME]`: the studies of a Ray cluster, their state, progress and time left. See `--help`."""

from __future__ import annotations

import argparse
import sys

from study.command_line.program import program_name
from study.service.command_line import add_cluster_options, connect_as_asked, guarded
from study.service.connection import Cluster
from study.service.study_jobs import StudyJob, find_study, list_studies, read_output, read_progress

_HEADER = ("study", "state", "trials done", "left", "since")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("status"), description="State, progress and time left of the studies of a Ray cluster."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="one study (default: all)")
    add_cluster_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)
    return guarded(lambda: _show(connect_as_asked(options), options.name))


def _show(cluster: Cluster, name: str | None) -> int:
    studies = list_studies(cluster) if name is None else [find_study(cluster, name)]
    if not studies:
        print(f"no study was submitted to {cluster.address}")
        return 0
    rows = [_HEADER, *(_describe(cluster, found) for found in studies)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    if name is not None:
        print(f"\njob      {studies[0].job}")
        print(f"results  {studies[0].results or 'the default of the head'}")
        if reason := _reason(cluster, studies[0]):
            print(f"reason   {reason}")
    return 0


def _describe(cluster: Cluster, found: StudyJob) -> tuple[str, ...]:
    summary = read_progress(cluster, found)
    trials = f"{summary.num_done} of {summary.num_trials}" if summary else ""
    if summary and summary.num_failed:
        trials += f", {summary.num_failed} failed"
    left = summary.left if summary and found.active else ""
    return found.study, found.state, trials, left, found.started_at


def _reason(cluster: Cluster, found: StudyJob) -> str:
    """The last line of a study that its driver has not brought to its end."""
    if found.state not in ("ended with an error", "failed"):
        return ""
    lines = [line for line in read_output(cluster, found, 5).splitlines() if line.strip()]
    return lines[-1] if lines else found.message


if __name__ == "__main__":
    sys.exit(main())
