"""progress.json in a study's folder: how far the study is, written by its driver for whoever looks at it from outside.

A job of a cluster has a copy of it beside the job's own log, where a client that reaches only the dashboard can read it. The
fields are those of `StudyProgress`. A later version may add fields, which readers of this one pass over; it renames none and
gives none another meaning. While trials run it is written every few seconds (`updated_at`), also where nothing has changed. A
driver that was killed leaves a state that has not ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainable.errors import first_line
from trainable.files import write_json
from trainable.records.clock import utc_now

PROGRESS_FILE = "progress.json"
_MOST_CHARACTERS = 1 << 20  # a thousand times what a driver writes
_log = logging.getLogger(__name__)


class StudyState(StrEnum):
    """What a study is doing, or how it ended. Its driver writes all but those that only somebody else can tell of."""

    CHECKING = "checking"  # options, data, results, lock, and whether it can go on with what is there
    WAITING_FOR_NODE = "waiting for a node"  # on a cluster whose nodes come and go
    RUNNING = "running"
    DONE = "done"
    SOME_FAILED = "some failed"  # or its search is not over
    INTERRUPTED = "interrupted"
    ERROR = "ended with an error"
    WAITING = "waiting"  # told by its cluster: the driver has not started
    FAILED = "failed"  # told by its cluster: the driver could not start
    LOST = "lost"  # told by its cluster: the driver was killed

    @property
    def ended(self) -> bool:
        """True where no driver of the study works any more."""
        return self not in (self.WAITING, self.CHECKING, self.WAITING_FOR_NODE, self.RUNNING)


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """How far a study is. Counts of failures and nodes are of the driver that runs now, or ran last."""

    state: StudyState = StudyState.CHECKING
    num_trials: int | None = None  # in all, also those to come in a search; None until its trials are known
    num_done: int = 0  # completed, diverged or pruned
    num_running: int = 0
    num_failed: int = 0  # that will not be tried again
    left_s: float | None = None  # seconds until the last trial ends, as estimated; None while nothing is known
    num_failures: int = 0  # attempts of trials that ended with an error or a killed worker
    num_retries: int = 0  # of these, how many were tried again
    last_failure: str | None = None
    num_lost_nodes: int = 0
    last_lost_node: str | None = None
    reason: str | None = None  # why it ended with an error
    started_at: str = ""  # UTC, ISO 8601
    updated_at: str = ""


class ProgressFile:
    """The driver's own view of its progress, written wherever it is to be seen; nowhere unless it is told a place."""

    def __init__(self, copy: Path | None = None) -> None:
        self._copy = copy
        self._folder: Path | None = None
        self._taken_over: Callable[[], bool] = lambda: False
        self._lost_nodes: set[str] = set()
        self.progress = StudyProgress(started_at=utc_now())
        self.change()

    @property
    def is_of_job(self) -> bool:
        """True where the driver is a job of a cluster, beside whose log a copy is kept."""
        return self._copy is not None

    def change(self, **changes: Any) -> None:
        """Change fields of the progress, and write it. What cannot be written now is with the next change."""
        self.progress = replace(self.progress, updated_at=utc_now(), **changes)
        places = [] if self._copy is None else [self._copy]
        if self._folder is not None and self._folder.is_dir() and not self._taken_over():
            places.append(self._folder / PROGRESS_FILE)
        for path in places:
            try:
                write_json(path, dataclasses.asdict(self.progress))
            except OSError as error:
                _log.warning("%s could not be written: %s", path, error)

    def note_failure(self, reason: str, *, retried: bool) -> None:
        """An attempt of a trial failed."""
        before = self.progress
        self.change(num_failures=before.num_failures + 1, num_retries=before.num_retries + retried, last_failure=reason)

    def note_lost_node(self, node: str) -> None:
        """A trial lost its node; each node counts once, however many trials it had."""
        self._lost_nodes.add(node)
        self.change(num_lost_nodes=len(self._lost_nodes), last_lost_node=node)

    @contextmanager
    def kept_in(self, folder: Path, taken_over: Callable[[], bool]) -> Iterator[None]:
        """Write it into the study's folder too, until the block ends, or the study is removed or another driver's."""
        self._folder, self._taken_over = folder, taken_over
        self.change(state=StudyState.RUNNING)
        try:
            with self.ending():
                yield
        finally:
            self._folder = None

    @contextmanager
    def ending(self) -> Iterator[None]:
        """An exception that leaves the block is noted as the end of the study."""
        try:
            yield
        except KeyboardInterrupt:
            self.end(StudyState.INTERRUPTED)
            raise
        except Exception as error:
            self.end(StudyState.ERROR, first_line(error, 500))
            raise

    def end(self, state: StudyState, reason: str | None = None) -> None:
        """The study ended so."""
        self.change(state=state, reason=reason, num_running=0, left_s=None)


def read_progress(path: Path) -> StudyProgress | None:
    """As `parse_progress`; None also for what is no regular file: a pipe would be waited for. Errors: OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8", errors="replace") as file:
        is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        return parse_progress(file.read(_MOST_CHARACTERS)) if is_file else None


def parse_progress(text: str) -> StudyProgress | None:
    """What the content of a progress file says; None where it is none, e.g. not there yet, or has a field of another type."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
        content = json.loads(text)
        kinds = {field.name: str(field.type) for field in dataclasses.fields(StudyProgress) if field.name != "state"}
        fields = {name: _checked(content[name], kind) for name, kind in kinds.items() if name in content}
        return StudyProgress(**fields, state=StudyState(content["state"]))
    return None


def _checked(value: Any, kind: str) -> Any:
    """A value of a field, a text without characters that are none. Errors: TypeError, ValueError."""
    if value is None and kind.endswith(" | None"):
        return None
    types: dict[str, Any] = {"int": (int,), "float": (int, float), "str": (str,)}
    if isinstance(value, bool) or not isinstance(value, types[kind.removesuffix(" | None")]):
        raise TypeError(f"{value!r} is no {kind}")
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return value


def format_clock(seconds: float | None) -> str:
    """A time such as 1:02:03 or 2:03; empty where it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
