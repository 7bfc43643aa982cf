"""Studies that are not in a folder of this machine: at a URL, of which a copy is read, and on a cluster, of which only the state is."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from analysis.records.study_folder import StudyFolder
from analysis.report.page import show_invisible
from analysis.sources.pull import copy_path, pull
from study.folder.progress_file import PROGRESS_FILE
from study.page.watched import SHARE, WatchedStudy
from study.service.connection import Cluster
from study.service.study_jobs import find_state, list_studies, read_progress, read_reason
from trainable.errors import first_line

FETCH_EVERY_S = 30.0


class FetchedStudy(WatchedStudy):
    """A study at a URL: fetched anew from time to time, into the user's cache."""

    is_copy = True

    def __init__(self, url: str) -> None:
        super().__init__(StudyFolder(copy_path("pulled", url)))
        self._url = url
        self._next_fetch = 0.0
        self._fetch_problem = ""

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return show_invisible(self._url.rstrip("/").rpartition("/")[2])

    @property
    def problem(self) -> str:
        """Why it could not be fetched, or what was fetched cannot be shown."""
        return self._fetch_problem or super().problem

    def look(self) -> None:
        """Fetch it if it is time to, and look at the copy. Never raises."""
        started = time.monotonic()
        if started >= self._next_fetch:
            try:
                pull(self._url, self.folder.path, [PROGRESS_FILE])
                self._fetch_problem = ""
            except Exception as error:  # noqa: BLE001 - stores and their libraries raise what they like
                self._fetch_problem = f"{self._url}: {first_line(error, 300)}"
            pause_s = max(FETCH_EVERY_S, SHARE * (time.monotonic() - started))
            self._next_fetch = time.monotonic() + pause_s
            self.silent_s = WatchedStudy.silent_s + pause_s
        super().look()


class ClusterStudies:
    """The studies that were submitted to a cluster, asked for from time to time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: list[dict[str, Any]] = []
        self._next_look = 0.0

    def look(self) -> None:
        """Ask the cluster, if it is time to. Never raises."""
        started = time.monotonic()
        if started < self._next_look:
            return
        try:
            self._known = [self._describe(found) for found in list_studies(self._cluster)]
        except Exception as error:  # noqa: BLE001 - whatever a dashboard answers, the page goes on
            self._known = [{**study, "problem": first_line(error, 300)} for study in self._known] or [
                {
                    **_UNKNOWN,
                    "name": self._cluster.address,
                    "state": "cannot be read",
                    "problem": first_line(error, 300),
                }
            ]
        self._next_look = time.monotonic() + max(2.0, SHARE * (time.monotonic() - started))

    def describe(self) -> list[dict[str, Any]]:
        """Each as in the overview; they have no page, for their folders are not here."""
        return self._known

    def _describe(self, found: Any) -> dict[str, Any]:
        progress = read_progress(self._cluster, found)
        return {
            **_UNKNOWN, "name": found.study, "title": f"on {self._cluster.address}", "state": find_state(found, progress),
            "problem": read_reason(self._cluster, found, progress) or "",
            "progress": None if progress is None else dataclasses.asdict(progress),
        }  # fmt: skip


_UNKNOWN: dict[str, Any] = {
    "title": "", "version": None, "last_heard": None, "trials": {}, "num_cells": None, "num_seeds": None, "progress": None
}  # fmt: skip
