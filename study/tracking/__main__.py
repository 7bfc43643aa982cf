"""`study sync STUDY`, also `python -m study.tracking sync STUDY`: make the study's W&B runs from its records, or complete the ones there are.

Can be repeated at any time: what W&B holds is not sent again. Exit status: 0 all runs are complete, 2 they are not,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from analysis.records.study_folder import StudyFolder, StudyFolderError, check_links
from analysis.sources.pull import is_url
from study.folder.ledger import consolidate, list_states
from study.storage.location import find_store
from study.storage.object_store import StorageError
from study.storage.study_lock import StudyLockedError
from study.storage.study_store import FolderStore, StudyStore
from study.tracking.mode import choose_project
from trainable.records.trial_state import TrialState

if TYPE_CHECKING:
    from study.tracking.run_writer import RunWriter

OK, INCOMPLETE, INTERRUPTED = 0, 2, 130


def build_parser(program: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog=program, description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sync = commands.add_parser("sync", help="make or complete the W&B runs of a study from its records")
    sync.add_argument("study", metavar="STUDY", help="study folder, or its URL")
    sync.add_argument("--project", metavar="NAME", help="W&B project (default: the one of the study so far)")
    sync.add_argument("--offline", action="store_true", help="write run folders into STUDY/wandb and send nothing")
    return parser


def main(arguments: list[str] | None = None, *, program: str = "python -m study.tracking") -> NoReturn:
    """Run the command line, and end the process."""
    exit_status = _run(build_parser(program).parse_args(arguments))
    sys.stdout.flush()
    os._exit(exit_status)  # all runs are finished, or were given up: wandb's exit hooks would wait for those once more


def _run(options: argparse.Namespace) -> int:
    try:
        store = _find_store(options.study, offline=options.offline)
        with store.open():  # a driver that works on the study writes its runs, too
            return _sync(store.folder, choose_project(store.folder, options.project), offline=options.offline)
    except (StudyFolderError, StudyLockedError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return INCOMPLETE
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _find_store(study: str, *, offline: bool) -> StudyStore:
    """Where the study lies; nothing is written where there is none. Errors: StudyFolderError, StorageError."""
    if not is_url(study):
        folder = StudyFolder(Path(study))
        folder.read_study()
        check_links(folder)
        return FolderStore(folder)
    if offline:
        raise StudyFolderError(f"{study}: --offline writes run folders into a study folder, not to a URL; leave it out")
    parent, _, name = study.rstrip("/").rpartition("/")
    store = find_store(parent, name)
    if store.trial_storage.read("study.json") is None:
        raise StudyFolderError(f"{study}: no study there, study.json is missing")
    return store


def _sync(folder: StudyFolder, project: str, *, offline: bool) -> int:
    from study.tracking.connection import Connection, WandbUnavailable  # takes seconds
    from study.tracking.run_writer import RunWriter

    states = [state for state in list_states(folder) if state.attempts]
    if not states:
        raise StudyFolderError(f"{folder.trials}: no trial was started yet, so there are no runs to make")
    status = OK
    with tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True) as scratch:
        root = folder.path if offline else Path(scratch)
        connection = Connection("offline" if offline else "online", project, folder.read_study().name, root)
        writer = RunWriter(folder, connection)
        try:
            for number, state in enumerate(states, 1):
                status = max(status, _sync_trial(writer, state, f"{number}/{len(states)}"))
            consolidate(folder)
            print("summary run  " + ("written" if writer.write_summary() else "up to date"))
            connection.close()
        except WandbUnavailable as error:
            print(f"error: W&B: {error}", file=sys.stderr)
            return INCOMPLETE
    print(f"W&B  {writer.describe()}")
    return status


def _sync_trial(writer: RunWriter, state: TrialState, number: str) -> int:
    try:
        writer.finish(state.trial_id)
    except StudyFolderError as error:
        print(f"{number}  {error}", file=sys.stderr)
        return INCOMPLETE
    print(f"{number}  trial {state.trial_id}  {state.status}, {state.epochs_completed} epochs", flush=True)
    return OK


if __name__ == "__main__":
    main()
