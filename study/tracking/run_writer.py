"""The runs of a study that are being written: opened when first needed, one per trial, and the summary run."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from analysis.records.study_folder import StudyFolder
from study.tracking.connection import Connection
from study.tracking.trial_run import TrialRun
from trainable.trial_state import TrialState


class RunWriter:
    """Writes the runs of the study in `folder`; once `hurry` is set, without further pictures.

    Errors: WandbUnavailable, StudyFolderError where records are damaged.
    """

    def __init__(self, folder: StudyFolder, connection: Connection, hurry: threading.Event | None = None) -> None:
        self._folder, self._connection, self._hurry = folder, connection, hurry or threading.Event()
        self._open: dict[str, TrialRun] = {}
        self._num_finished = 0
        self._url: str | None = None

    def add_epoch(self, trial_id: str, epoch: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> None:
        """Write what a trial reported about an epoch."""
        self._run(trial_id).add_epoch(epoch, steps)

    def finish(self, trial_id: str) -> TrialState:
        """Complete and close a trial's run from its records on disk; returns the state that it shows."""
        state = self._run(trial_id).finish()
        del self._open[trial_id]
        self._num_finished += 1
        return state

    @property
    def open_trials(self) -> tuple[str, ...]:
        """The trials whose runs are open."""
        return tuple(self._open)

    def write_summary(self) -> bool:
        """Write or update the study's summary run; False where it was up to date."""
        from study.tracking.summary_run import write_summary_run  # tables and figures: only when they are needed

        return write_summary_run(self._folder, self._connection)

    def describe(self) -> str:
        """One line: how many runs went where."""
        return f"{self._num_finished} trial runs in {self._connection.describe(self._url)}"

    def _run(self, trial_id: str) -> TrialRun:
        if trial_id not in self._open:
            self._open[trial_id] = TrialRun(self._folder, trial_id, self._connection, self._hurry)
            self._url = self._url or self._open[trial_id].url
        return self._open[trial_id]
