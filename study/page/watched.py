"""Studies under watch: which there are, what each says at this moment, and what of it a page asks for.

A study is looked at as often as looking is cheap: the time between two looks is at least forty times what the last one took. What a
page shows is built when it asks for it, once for all pages, and again only after the study has changed.
"""

from __future__ import annotations

import dataclasses
import logging
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.drawing.chart import Chart
from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.style import NothingToDraw
from analysis.figures import draw_study_figure, plan_figures
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.report.content import PagePicture, build_page_picture
from analysis.report.page import render_figure, show_invisible
from study.folder.progress_file import PROGRESS_FILE, StudyProgress, StudyState, read_progress
from study.page.feeds import ChartFeed
from study.page.live_study import LiveStudy, read_live_study, scan_trials
from study.storage.folder_lock import LOCK_FILE
from trainable.errors import first_line

LOOK_EVERY_S = 1.0
SHARE = 40  # of the time is spent between looks for each part that is spent looking
_log = logging.getLogger(__name__)
_MOST_BUILT = 500  # parts that are kept
_DRAWING = threading.Lock()  # matplotlib's settings are those of the whole process
_RECORDS = ("trials", "epochs", "steps", "layers", "model")


class WatchedStudy:
    """One study folder. Threads may ask at the same time; what is built is built once."""

    is_copy = False  # of a study elsewhere
    silent_s = 60.0  # a driver that writes nothing for so long does not live

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.version = 0
        self._look_problem = self._read_problem = ""
        self.progress: StudyProgress | None = None
        self.study: LiveStudy | None = None
        self.counts: dict[str, int] = {}  # of trials by status
        self._seen: object = None
        self._next_look = 0.0
        self._lock = threading.RLock()
        self._built: OrderedDict[str, Any] = OrderedDict()  # of this version, by what was asked for, the last one last
        self._feeds: dict[str, ChartFeed] = {}

    @property
    def name(self) -> str:
        """The folder's name, if need be in characters that show."""
        return show_invisible(self.folder.path.name)

    @property
    def problem(self) -> str:
        """Why what is on disk now cannot be shown; empty where it can."""
        return self._look_problem or self._read_problem

    def look(self) -> None:
        """See whether anything has changed, if it is time to. Never raises: `problem` says what is wrong."""
        now = time.monotonic()
        if now < self._next_look or not self._lock.acquire(blocking=False):  # something is being built
            return
        try:
            self.progress = _read_progress(self.folder)
            seen = _fingerprint(self.folder)
            if seen != self._seen:
                self._read()
                self._seen = seen
            self._look_problem = ""
        except Exception as error:  # noqa: BLE001 - of this study; the others are to be looked at
            self._look_problem = _tell(error)
        finally:
            self._lock.release()
        cost = time.monotonic() - now
        self._next_look = time.monotonic() + max(LOOK_EVERY_S, SHARE * cost)

    def ask(self, what: str, build: Callable[[LiveStudy], Any]) -> Any:
        """What `build` makes of the study as it is, made once for each version. Errors: StudyFolderError."""
        with self._lock:
            if self.study is None:
                raise StudyFolderError(self.problem or f"{self.folder.path}: not read yet")
            if what not in self._built:
                try:
                    self._built[what] = build(self.study)
                except StudyFolderError:
                    raise
                except Exception as error:
                    if type(error) is LookupError:  # there is no such part
                        raise
                    _log.exception("%s: %s", self.folder.path, what)
                    raise StudyFolderError(f"cannot be shown: {_tell(error)}") from error  # the rest can be
            self._built.move_to_end(what)
            while len(self._built) > _MOST_BUILT:
                self._built.popitem(last=False)
            return self._built[what]

    def chart(self, name: str, since: int) -> dict[str, Any]:
        """A chart's rows that are newer than version `since`, or why it is left out as yet. Errors: LookupError; StudyFolderError."""
        with self._lock:
            chart = self.ask(f"chart {name}", lambda study: _build_chart(study, name))
            if isinstance(chart, NothingToDraw):
                return {"version": self.version, "since": since, "left_out": str(chart)}
            feed = self._feeds.setdefault(name, ChartFeed())
            self.ask(f"feed {name}", lambda study: feed.update(chart, self.version))
            return {"version": self.version, "since": since, **feed.to_json(chart, since)}

    def picture(self, name: str) -> PagePicture:
        """A figure for the page, or why it is left out as yet. Errors: LookupError; StudyFolderError."""
        picture: PagePicture = self.ask(f"picture {name}", lambda study: _draw(study, name))
        return picture

    def _read(self) -> None:
        before, self._built = self._built, OrderedDict()
        study = self.study
        try:
            self.study = read_live_study(self.folder)
            _ = self.study.epochs  # held against the trials: they contradict each other while they are written
            self._read_problem = "; ".join(self.study.complaints)
            statuses = pd.concat(
                [of["status"] for of in (self.study.trials, self.study.search_trials, self.study.branches)]
            )
            self.counts = {str(status): int(number) for status, number in statuses.value_counts().items()}
            self.version = max(self.version + 1, int(time.time()))  # a server that is started again counts on
        except Exception as error:  # noqa: BLE001 - a damaged file may raise anything
            self._read_problem = _tell(error)
            self.study, self._built = study, before  # what was read before still stands


def describe(watched: WatchedStudy) -> dict[str, Any]:
    """A study in the overview, as JSON."""
    study, progress = watched.study, watched.progress
    counts = watched.counts
    state, heard_at = find_state(watched, counts)
    return {
        "name": watched.name, "title": study.info.title if study else "", "state": state, "version": watched.version,
        "last_heard": heard_at, "trials": counts, "problem": watched.problem,
        "num_cells": len(study.info.cells) if study else None, "num_seeds": len(study.info.seeds) if study else None,
        "progress": None if progress is None else dataclasses.asdict(progress),
    }  # fmt: skip


def find_state(watched: WatchedStudy, counts: dict[str, int]) -> tuple[str, float | None]:
    """The state of a study, and when it was last heard of (seconds since the epoch), from its files alone."""
    heard = [_changed_at(watched.folder.path / name) for name in (PROGRESS_FILE, LOCK_FILE)]
    heard_at = max((at for at in heard if at is not None), default=None)
    progress = watched.progress
    if progress is None:  # of an earlier version: whether its driver lives is not known
        unfinished = any(counts.get(status) for status in ("running", "pending"))
        failed = counts.get("failed")
        state = "unfinished" if unfinished else StudyState.SOME_FAILED if failed else StudyState.DONE
        return (state if counts else "cannot be read"), heard_at or _changed_at(watched.folder.records("trials"))
    if not progress.state.ended and (heard_at is None or time.time() - heard_at > watched.silent_s):
        return StudyState.LOST, heard_at
    return progress.state, heard_at


def find_figure(study: LiveStudy, name: str) -> tuple[FigureKind[Any], Subject]:
    """What declares a figure of this study. Errors: LookupError."""
    for kind, subject in plan_figures(study):
        if kind.name + subject.suffix == name:
            return kind, subject
    raise LookupError(f"no figure {name!r}")


def _build_chart(study: LiveStudy, name: str) -> Chart | NothingToDraw:
    kind, subject = find_figure(study, name)
    try:
        chart = kind.chart(kind.build(study, subject), subject) if kind.chart else None
    except NothingToDraw as nothing:  # as before the first epoch: the page asks again when the study has changed
        return nothing
    if chart is None:
        raise LookupError(f"{name} is a picture, not a chart")
    return chart


def _draw(study: LiveStudy, name: str) -> PagePicture:
    kind, subject = find_figure(study, name)
    with _DRAWING:
        figure = draw_study_figure(study, kind, subject)
        return build_page_picture(figure, render_figure(figure))


class Watch:
    """All studies under some folders, each of which is a study or holds studies, those that appear later too; and `others`, which are looked at apart."""

    def __init__(self, roots: Iterable[Path], others: Iterable[WatchedStudy] = ()) -> None:
        self.roots = [Path(root).absolute() for root in roots]
        self.others = list(others)
        self._studies: dict[Path, WatchedStudy] = {}
        self._next_search = 0.0
        self._told: set[str] = set()

    def look(self) -> None:
        """Look at all studies that it is time for. Never raises."""
        if time.monotonic() >= self._next_search:
            started = time.monotonic()
            found = [path for root in self.roots for path in self._find_studies(root)]
            self._studies = {path: self._studies.get(path) or WatchedStudy(StudyFolder(path)) for path in found}
            self._next_search = time.monotonic() + max(2.0, SHARE * (time.monotonic() - started))
        for watched in list(self._studies.values()):
            watched.look()

    def studies(self) -> dict[str, WatchedStudy]:
        """The studies by name; of two with the same name the second is called `NAME-2`."""
        named: dict[str, WatchedStudy] = {}
        for watched in [*self._studies.values(), *self.others]:
            name, number = watched.name, 2
            while name in named:
                name, number = f"{watched.name}-{number}", number + 1
            named[name] = watched
        return named

    def _find_studies(self, root: Path) -> list[Path]:
        """The studies under a root. What cannot be looked at for a moment counts as it was."""
        try:
            if StudyFolder(root).exists():
                return [root]
            return sorted(path for path in root.iterdir() if self._is_study(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                _log.warning("%s: cannot be looked at: %s", root, error)
            return [path for path in self._studies if root in (path, path.parent)]

    def _is_study(self, path: Path) -> bool:
        try:
            return not path.is_symlink() and StudyFolder(path).exists()
        except OSError:  # as of another user's
            return path in self._studies


def _fingerprint(folder: StudyFolder) -> object:
    """Time and size of every file that a page is made from; equal where none has changed. Errors: StudyFolderError for a pipe."""
    paths = [
        folder.study_json,
        folder.samples,
        folder.telling_images,
        folder.search_journal,
        *map(folder.records, _RECORDS),
    ]
    found: list[object] = []
    for path in paths:
        try:
            status = path.stat()
            found.append((path.name, status.st_mtime_ns, status.st_size))
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise StudyFolderError(f"{path}: is no regular file")
    try:
        return (*found, scan_trials(folder))
    except OSError as error:
        return (*found, str(error))


def _read_progress(folder: StudyFolder) -> StudyProgress | None:
    try:
        return read_progress(folder.path / PROGRESS_FILE)
    except OSError:
        return None


def _tell(error: Exception) -> str:
    return (
        first_line(error, 300)
        if isinstance(error, StudyFolderError)
        else f"{type(error).__name__}: {first_line(error, 300)}"
    )


def _changed_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
