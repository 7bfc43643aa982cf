"""`python -m study.status [NAME|DIR]`: the studies of a Ray cluster, or one in a folder: state, progress, time left. See `--help`.

Exit status: 0, 2 bad input; with NAME also 1 when its driver failed or was lost, 3 when some of its trials failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any

from study.command_line.exit_status import OK, SOME_FAILED
from study.command_line.program import program_name
from study.folder.progress_file import PROGRESS_FILE, StudyProgress, StudyState, format_clock, parse_progress
from study.service.command_line import add_cluster_options, connect_as_asked, guarded
from study.service.connection import Cluster, ClusterError
from study.service.study_jobs import (
    DRIVER_FAILED,
    StudyJob,
    find_state,
    find_study,
    list_studies,
    read_progress,
    read_reason,
)
from trainable.errors import first_line

Seen = tuple[StudyJob, StudyProgress | None]

_FAILED = 1
_WATCH_INTERVAL_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"  # what a terminal takes for an empty screen
_MOST_CHARACTERS = 400  # of a reason; --json has it whole
_HEADER = ("study", "state", "trials done", "left", "since")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("status"),
        description="State, progress and time left of the studies of a Ray cluster, or of one in a folder.",
        epilog="With NAME the exit status tells how the study is: 0 not over, done or interrupted, 1 its driver failed or was "
        "lost, 3 some of its trials failed.",
    )  # fmt: skip
    parser.add_argument(
        "name", nargs="?", metavar="NAME|DIR",
        help="one study, with what went wrong: its name, or its folder on this machine (default: all of the cluster)",
    )  # fmt: skip
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON object, or a list of them without NAME")
    shown.add_argument(
        "--watch", action="store_true", help="show it again as it changes, until every study shown has ended"
    )
    add_cluster_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = build_parser().parse_args(arguments)

    def command() -> int:
        if options.name and ("/" in options.name or Path(options.name).is_dir()):
            if options.watch:
                raise ClusterError(
                    f"--watch is for studies of a cluster; {program_name('serve')} shows a folder's as it runs"
                )
            return _show_folder(Path(options.name), as_json=options.json)
        cluster = connect_as_asked(options)
        if options.watch:
            return _watch(cluster, options.name)
        return _show(cluster, options.name, as_json=options.json)

    return guarded(command)


def _show_folder(folder: Path, *, as_json: bool) -> int:
    """Show what the driver of a study on this machine has written last. Errors: ClusterError."""
    if not (folder / PROGRESS_FILE).is_file():
        return _show_trials(folder, as_json=as_json)
    try:
        progress = parse_progress((folder / PROGRESS_FILE).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{folder / PROGRESS_FILE}: cannot be read ({first_line(error)})") from error
    if progress is None:
        raise ClusterError(f"{folder / PROGRESS_FILE}: not the progress of a study")
    state, study = progress.state, folder.resolve().name
    if as_json:
        print(json.dumps({"study": study, "state": state, "progress": dataclasses.asdict(progress)}, indent=1))
        return _exit_status(state)
    found = StudyJob(study, "", str(folder), state, not state.ended, progress.started_at, None, None, "")
    lines = [*_table([(found, progress)]), "", f"told     {progress.updated_at}", *_describe_failures(progress)]
    if progress.reason:
        lines.append(f"reason   {progress.reason}")
    if state.ended and state != StudyState.DONE:
        lines.append(f"go on    the same {program_name('run')}; nothing that is finished is trained again")
    print("\n".join(lines))
    return _exit_status(state)


def _show_trials(path: Path, *, as_json: bool) -> int:
    """Show the trials of a study of which no progress was kept: an older one, or a copy. Errors: ClusterError."""
    from analysis.records.study_folder import StudyFolder, StudyFolderError  # pyarrow, which clusters are asked without
    from study.folder.ledger import list_states

    folder, study = StudyFolder(path), path.resolve().name
    try:
        folder.read_study()
        statuses = [state.status for state in list_states(folder)]
        counts = Counter(statuses or folder.read_records("trials", ["status"])["status"].to_pylist())
    except StudyFolderError as error:
        raise ClusterError(str(error)) from error
    if as_json:
        print(json.dumps({"study": study, "state": None, "progress": None, "trials": counts}, indent=1))
    else:
        listed = ", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "none yet"
        print(f"{study}  trials: {listed}; no driver's progress is kept there")
    return OK


def _show(cluster: Cluster, name: str | None, *, as_json: bool) -> int:
    seen = _look(cluster, name)
    if as_json:
        described = [_as_json(cluster, found, progress) for found, progress in seen]
        print(json.dumps(described if name is None else described[0], indent=1))
    else:
        print(_describe(cluster, name, seen))
    return OK if name is None else _exit_status(find_state(*seen[0]))


def _watch(cluster: Cluster, name: str | None) -> int:
    """Show the studies whenever something has changed, on a terminal in the same place, until all that are shown have ended.

    Ctrl-C ends the watching, no study. A cluster that stops answering is waited for.
    """
    shown, seen = "", _look(cluster, name)
    try:
        while True:
            if (text := _describe(cluster, name, seen)) != shown:
                print(f"{_CLEAR if sys.stdout.isatty() else ''}{text}", flush=True)
                shown = text
            if not any(found.active for found, _ in seen):
                return OK if name is None else _exit_status(find_state(*seen[0]))
            seen = _look_again(cluster, name)
    except KeyboardInterrupt:
        return OK


def _look(cluster: Cluster, name: str | None) -> list[Seen]:
    studies = list_studies(cluster) if name is None else [find_study(cluster, name)]
    return [(found, read_progress(cluster, found)) for found in studies]


def _look_again(cluster: Cluster, name: str | None) -> list[Seen]:
    """Look after a while; a cluster that does not answer is waited for, and that is said once."""
    said = ""
    while True:
        time.sleep(_WATCH_INTERVAL_S)
        try:
            return _look(cluster, name)
        except ClusterError as error:
            if (trouble := f"no news: {error}") != said:
                print(trouble, file=sys.stderr, flush=True)
                said = trouble


def _describe(cluster: Cluster, name: str | None, seen: list[Seen]) -> str:
    """What is shown of the studies: a table, and of one study what went wrong."""
    if not seen:
        return f"no study was submitted to {cluster.address}"
    details = [] if name is None else ["", *_details(cluster, *seen[0])]
    return "\n".join([*_table(seen), *details])


def _exit_status(state: StudyState) -> int:
    if state in DRIVER_FAILED:
        return _FAILED
    return SOME_FAILED if state == StudyState.SOME_FAILED else OK


def _table(seen: list[Seen]) -> list[str]:
    rows = [_HEADER, *(_row(found, progress) for found, progress in seen)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(found: StudyJob, progress: StudyProgress | None) -> tuple[str, ...]:
    trials = left = ""
    if progress and progress.num_trials is not None:
        failed = f", {progress.num_failed} failed" if progress.num_failed else ""
        trials = f"{progress.num_done} of {progress.num_trials}{failed}"
        left = format_clock(progress.left_s) if found.active else ""
    return found.study, find_state(found, progress), trials, left, found.started_at


def _details(cluster: Cluster, found: StudyJob, progress: StudyProgress | None) -> list[str]:
    lines = [f"job      {found.job}", f"results  {found.results or 'the default of the head'}"]
    lines += _describe_failures(progress) if progress else []
    state = find_state(found, progress)
    if reason := read_reason(cluster, found, progress):
        lines.append(f"reason   {reason}")
    if state.ended and state != StudyState.DONE:
        lines.append(f"go on    the same {program_name('submit')}; nothing that is finished is trained again")
    return lines


def _describe_failures(progress: StudyProgress) -> list[str]:
    lines = []
    if progress.num_failures:
        counts = f"{_count(progress.num_failures, 'attempt')} failed, {progress.num_retries} tried again"
        lines.append(f"trials   {counts}; last: {_shortened(progress.last_failure)}")
    if progress.num_lost_nodes:
        lines.append(
            f"nodes    {_count(progress.num_lost_nodes, 'node')} lost or unfit; last: {progress.last_lost_node}"
        )
    return lines


def _shortened(text: str | None) -> str:
    return textwrap.shorten(text or "", _MOST_CHARACTERS, placeholder=" ...")


def _as_json(cluster: Cluster, found: StudyJob, progress: StudyProgress | None) -> dict[str, Any]:
    """What a script asks for: the job, the study's state, and the fields of its progress file, null where there is none."""
    state = find_state(found, progress)
    return {
        "study": found.study, "state": state, "active": found.active, "job": found.job, "cluster": cluster.address,
        "results": found.results or None, "submitted_at": found.started_at, "reason": read_reason(cluster, found, progress) or None,
        "progress": None if progress is None else dataclasses.asdict(progress),
    }  # fmt: skip


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
