"""The runs of a study that are being written: opened when first needed, one per trial, and the summary run."""

from __future__ import annotations

import threading

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.ledger import load_state
from study.tracking.connection import Connection
from study.tracking.trial_run import TrialRun
from trainable.records.trial_state import TrialState


class RunWriter:
    """Writes the runs of the study in `folder`; once `hurry` is set, without further pictures.

    Errors: WandbUnavailable, StudyFolderError where records are damaged.
    """

    def __init__(self, folder: StudyFolder, connection: Connection, hurry: threading.Event | None = None) -> None:
        self._folder, self._connection, self._hurry = folder, connection, hurry or threading.Event()
        self._open: dict[str, TrialRun] = {}
        self._seen: dict[str, TrialState] = {}
        self._num_finished = 0
        self._url: str | None = None

    def update(self, trial_id: str) -> bool:
        """Write what is new in a trial's folder; True when the trial has ended, and with it its run.

        A run is opened with the trial's first epoch on disk, or with its end.
        """
        state = load_state(self._folder, trial_id)
        if state is None or state == self._seen.get(trial_id):
            return False
        self._seen[trial_id] = state
        if state.status not in ("pending", "running"):
            self.finish(trial_id)
            return True
        if state.epochs_completed:
            self._run(state).update(state)
        return False

    def finish(self, trial_id: str) -> None:
        """Complete and close a trial's run from its folder."""
        state = load_state(self._folder, trial_id)
        if state is None:
            raise StudyFolderError(f"{self._folder.trial(trial_id)}: the trial's state is gone")
        self._run(state).finish(state)
        del self._open[trial_id]
        self._num_finished += 1

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

    def _run(self, state: TrialState) -> TrialRun:
        run = self._open.get(state.trial_id)
        if run is None:
            run = self._open[state.trial_id] = TrialRun(self._folder, state, self._connection, self._hurry)
            self._url = self._url or run.url
        return run
