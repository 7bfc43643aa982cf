"""`python -m study.logs NAME`: what a study on a Ray cluster has printed, or prints as it runs. See `--help`.

Exit status: 0, 2 bad input; with --follow that of the study.
"""

from __future__ import annotations

import argparse
import sys

from study.command_line.program import program_name
from study.service.command_line import add_cluster_options, connect_as_asked, follow, guarded
from study.service.connection import Cluster
from study.service.study_jobs import find_study, read_output

_MOST_LINES = 1_000_000


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("logs"), description="What the newest run of a study on a Ray cluster has printed."
    )
    parser.add_argument("name", metavar="NAME", help="the study")
    parser.add_argument("--follow", action="store_true", help="go on until the study ends")
    parser.add_argument("--lines", type=int, metavar="N", help="only the last N lines")
    add_cluster_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.lines is not None and (options.lines < 1 or options.follow):
        parser.error("--lines: at least 1, and not with --follow")
    return guarded(lambda: _show(connect_as_asked(options), options))


def _show(cluster: Cluster, options: argparse.Namespace) -> int:
    found = find_study(cluster, options.name)
    if options.follow:
        return follow(cluster, found)
    text = read_output(cluster, found, options.lines or _MOST_LINES)
    print(text or f"study {found.study} has printed nothing yet ({found.state})", end="" if text else "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
