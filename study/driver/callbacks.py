"""Tune callbacks and stopper of the driver: progress, interruption and the share of a cluster.

An exception in one would end the whole experiment, so none gets out. Imports Ray: import this module only after the driver
has set Ray's environment.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from ray import tune

from analysis.records.study_folder import StudyFolderError
from study.cluster.fair_share import FairShare
from study.driver.failures import NotSaved, failure_reason
from study.driver.interruption import Interruption
from study.driver.progress import Progress
from study.driver.trial_runner import read_trial_id
from study.folder.ledger import consolidate, load_state
from study.storage.study_store import StudyStore

_log = logging.getLogger(__name__)
_GATHER_INTERVAL_S = 10.0


class ProgressReporter(NotSaved, tune.Callback):
    """Feeds the live table, and gathers the study's records every now and then so that a reader can watch."""

    def __init__(self, progress: Progress, store: StudyStore, interruption: Interruption) -> None:
        self._progress, self._interruption = progress, interruption
        self._store = store
        self._folder = store.folder
        self._gathered_at = time.monotonic()
        self._gathering_s = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop: also while no epoch ends, the progress file stays current."""
        self._progress.save_when_due(ending=self._interruption.requested_at is not None)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on."""
        self._progress.start(read_trial_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial finished an epoch."""
        if "train_loss" in result:
            self._progress.update(read_trial_id(trial), result)
        self._gather_when_due()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended; its state on disk says how."""
        name = read_trial_id(trial)
        try:
            self._store.fetch_trial(name)
            state = load_state(self._folder, name)
            status, reason = (state.status, state.reason) if state else ("failed", "its folder is gone")
        except (OSError, StudyFolderError) as error:
            status, reason = "failed", str(error)
        self._progress.end(name, status, reason)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt failed; the trial goes on from its newest checkpoint, unless it has had its chances."""
        if trial.max_failures < 0:
            self._progress.end(read_trial_id(trial), "waiting", f"goes on after: {self._reason(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The last attempt failed."""
        self._progress.end(read_trial_id(trial), "failed", self._reason(trial))

    def _reason(self, trial: Any) -> str:
        """As FailureRecorder, which is asked before, has noted it."""
        with contextlib.suppress(StudyFolderError):
            state = load_state(self._folder, read_trial_id(trial))
            if state is not None and state.reason is not None:
                return state.reason
        return failure_reason(trial)

    def _gather_when_due(self) -> None:
        """Gathering is kept to a fiftieth of the time, however large the study grows."""
        now = time.monotonic()
        if now - self._gathered_at < max(_GATHER_INTERVAL_S, 50 * self._gathering_s):
            return
        try:
            consolidate(self._folder)
        except (OSError, StudyFolderError) as error:
            _log.warning("records could not be gathered: %s", error)
        self._gathered_at = time.monotonic()
        self._gathering_s = self._gathered_at - now


class RunningTrials(NotSaved, tune.Callback):
    """After an interruption, tells it which trials still run; interrupts by itself where the study's lock was lost."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop."""
        if self._interruption.lock.lost:
            self._interruption.request()
        if self._interruption.requested_at is not None:
            self._interruption.observe_running({str(t) for t in trials if t.status == "RUNNING"})


class ShareKeeper(NotSaved, tune.Callback):
    """Lets Tune start no more trials than the study's share of a cluster, which changes as other studies come and go.

    The time left is estimated with that share, so that those of several studies side by side fit together.
    """

    def __init__(self, trials: Any, share: FairShare, progress: Progress) -> None:
        self._trials = trials  # Tune's source of trials, which starts one whenever fewer than its max_concurrent run
        self._share, self._progress = share, progress

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop."""
        self._trials.max_concurrent = self._share.trials
        self._progress.share_out(self._share.trials)


class InterruptionStopper(NotSaved, tune.Stopper):
    """Ends the experiment after an interruption, once the trials that were running have saved and ended."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped by Tune: interrupted ones end by themselves."""
        return False

    def stop_all(self) -> bool:
        """True when all that ran has ended, or had its time."""
        return self._interruption.over()
