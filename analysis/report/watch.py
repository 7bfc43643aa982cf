"""Rewriting the report of a running study whenever its records have changed, until the study ends.

Bounded: where nothing has changed for four hours the study is taken for dead. Knows no Ray and no process: a study runs
while a trial in its records is pending or running, a search until its winners are being confirmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.report.page import write_report

MAX_IDLE_S = 4 * 3600.0
_ACTIVE = ("pending", "running")


def watch_report(
    folder: StudyFolder, interval_s: int, claims_file: Path | None = None, *, say: Callable[[str], None] = print,
    max_idle_s: float = MAX_IDLE_S,
) -> None:  # fmt: skip
    """Rewrite the report every `interval_s` seconds in which records changed; returns when the study has ended.

    While it runs the page reloads itself as often. Records that cannot be read may be in the middle of being replaced:
    that is said once and tried again. Errors: StudyFolderError where there is no study to begin with.
    """
    folder.read_study()
    written: object = None
    complaint = ""
    changed_at = time.monotonic()
    while True:
        state = _state(folder)
        idle = time.monotonic() - changed_at > max_idle_s
        if state != written or idle:
            try:
                running = _is_running(folder) and not idle
                path = write_report(folder, refresh_s=interval_s if running else None, claims_file=claims_file)
            except (StudyFolderError, LookupError, ValueError) as error:
                # Files that were replaced while they were read fit together no more, and can fail anywhere.
                if idle or not (isinstance(error, StudyFolderError) or _state(folder) != state):
                    raise
                if str(error) != complaint:
                    complaint = str(error)
                    say(f"waiting: {complaint}")
            else:
                say(f"{time.strftime('%H:%M:%S')} wrote {path}")
                if not running:
                    say("the study does not run any more" if not idle else "nothing has changed for too long: gave up")
                    return
                written, changed_at = state, time.monotonic()
        time.sleep(interval_s)


def _is_running(folder: StudyFolder) -> bool:
    trials = folder.read_records("trials", ["status", "role"]).to_pydict()
    if folder.read_study().search is not None and "confirmation" not in trials["role"]:
        return True  # between two trials of a search none may be running
    return any(status in _ACTIVE for status in trials["status"])


def _state(folder: StudyFolder) -> tuple[tuple[str, int, int], ...]:
    """Time and size of every file that the report is made from; equal where none has changed."""
    paths = [
        folder.study_json,
        folder.samples,
        folder.telling_images,
        folder.search_journal,
        *map(folder.records, ("trials", "epochs", "steps", "layers", "model")),
    ]
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)
