"""Studies under watch: which there are, what each says at this moment, and what of it a page asks for.

A study is looked at as often as looking is cheap: the time between two looks is at least twenty times what the last one took. What a
page shows is built when it asks for it, once for all pages, and again only after the study has changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.files import render
from analysis.figures import plan_figures
from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.progress_file import PROGRESS_FILE, StudyProgress, StudyState, parse_progress
from study.page.feeds import ChartFeed
from study.page.live_study import LiveStudy, read_live_study, scan_trials
from study.storage.folder_lock import LOCK_FILE
from trainable.errors import first_line

LOOK_EVERY_S = 1.0
SHARE = 20  # of the time is spent between looks for each part that is spent looking
_SILENT_S = 60.0  # a driver that writes nothing for so long does not live
_RECORDS = ("trials", "epochs", "steps", "layers", "model")


class WatchedStudy:
    """One study folder. Threads may ask at the same time; what is built is built once."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.version = 0
        self.problem = ""  # why what is on disk now cannot be shown
        self.progress: StudyProgress | None = None
        self.study: LiveStudy | None = None
        self._seen: object = None
        self._next_look = 0.0
        self._lock = threading.RLock()
        self._built: dict[str, Any] = {}  # of this version, by what was asked for
        self._feeds: dict[str, ChartFeed] = {}

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.name

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
                self._built[what] = build(self.study)
            return self._built[what]

    def chart(self, name: str, since: int) -> dict[str, Any]:
        """A chart's rows that are newer than version `since`. Errors: LookupError; NothingToDraw; StudyFolderError."""
        with self._lock:
            chart = self.ask(f"chart {name}", lambda study: _build_chart(study, name))
            feed = self._feeds.setdefault(name, ChartFeed())
            self.ask(f"feed {name}", lambda study: feed.update(chart, self.version))
            return {"version": self.version, "since": since, **feed.to_json(chart, since)}

    def picture(self, name: str) -> str:
        """A figure as SVG for the page. Errors: LookupError; NothingToDraw; StudyFolderError."""
        svg: str = self.ask(f"picture {name}", lambda study: _draw(study, name))
        return svg

    def _read(self) -> None:
        before, self._built = self._built, {}
        study = self.study
        try:
            self.study = read_live_study(self.folder)
            _ = self.study.epochs  # held against the trials: they contradict each other while they are written
