"""Tune callbacks and stopper of the driver. An exception in one would end the whole experiment, so none gets out.

Imports Ray: import this module only after the driver has set Ray's environment.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.ledger import consolidate, load_state, record_failure, record_node_loss

if TYPE_CHECKING:
    from study.cluster.fair_share import FairShare
    from study.driver.experiment import Interruption
    from study.driver.progress import Progress
    from study.storage.study_store import StudyPlace

_log = logging.getLogger(__name__)
_GATHER_INTERVAL_S = 10.0
_BUSY_S = 1.0
_LOOK_INTERVAL_S = 0.2  # Tune's loop turns once per report, and there may be thousands of trials
_MOST_LOSSES = 20  # a trial that ends node after node, say by their memory, must not go on for ever


class HangWatch(tune.Callback):
    """Ends the worker of a trial that has not reported for `timeout_s`; Tune sees it die, which counts as a failure.

    The driver does this, not a thread of the worker, so that a process that is frozen as a whole is ended too.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._stepped_at = self._looked_at = time.monotonic()
        self._heard_at: dict[str, float] = {}
        self._ended: dict[str, str] = {}

    def reason(self, trial_id: str) -> str | None:
        """Why the trial's last attempt was ended here; None where it was not."""
        return self._ended.get(trial_id)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The time of an attempt runs from its start."""
        self._ended.pop(_id(trial), None)
        self._heard_at[_id(trial)] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Any report is a sign of life."""
        self._heard_at[_id(trial)] = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop. While the driver itself was busy, say with gathering, no trial was silent."""
        if self._timeout_s is None:
            return
        now = time.monotonic()
        if (busy_s := now - self._stepped_at) > _BUSY_S:
            self._heard_at = {trial: heard_at + busy_s for trial, heard_at in self._heard_at.items()}
        self._stepped_at = now
        if now - self._looked_at < _LOOK_INTERVAL_S:
            return
        self._looked_at = now
        for trial in trials:
            heard_at = self._heard_at.get(_id(trial))
            if trial.status == "RUNNING" and heard_at is not None and now - heard_at > self._timeout_s:
                self._end(trial)

    def _end(self, trial: Any) -> None:
        del self._heard_at[_id(trial)]
        worker = trial.temporary_state.ray_actor
        if worker is not None:
            self._ended[_id(trial)] = f"no report within {self._timeout_s:g} s (--trial-timeout): its worker was ended"
            ray.kill(worker)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class FailureRecorder(tune.Callback):
    """Notes every failed attempt of a trial, with its reason, in the trial's state, and says when it was the last one.

    Tune counts the loss of a node as a failure of the trials on it; here only the trial's own failures count, neither the loss of
    a node nor one that joined and cannot run trials. So Tune is told
    to try for ever, until this sets the limit of a trial that has had its chances; its next attempt then ends at once.
    """

    def __init__(
        self,
        place: StudyPlace,
        hang_watch: HangWatch,
        max_failures: int,
        find_node_trouble: Callable[[Any], str | None],
    ) -> None:
        self._place = place
        self._find_node_trouble = find_node_trouble
        self._hang_watch = hang_watch
        self._max_failures = max_failures
        self._failures: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._given_up: set[str] = set()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The attempt failed and Tune tries again."""
        if (
            self._hang_watch.reason(_id(trial)) is None
            and self._losses[_id(trial)] < _MOST_LOSSES
            and (trouble := self._trouble(trial)) is not None
        ):
            self._losses[_id(trial)] += 1
            note = f"{trouble}; the trial goes on from its newest checkpoint"
            self._write(trial, lambda folder: record_node_loss(folder, _id(trial), note))
            return
        self._failures[_id(trial)] += 1
        if self._failures[_id(trial)] > self._max_failures:
            trial.max_failures = 0
            self._given_up.add(_id(trial))
        self._record(trial)

    def _trouble(self, trial: Any) -> str | None:
        try:
            return self._find_node_trouble(trial)
        except Exception as error:  # noqa: BLE001 - Ray's own servers may be starting again
            _log.warning("whether the node of trial %s was lost cannot be told: %s", trial, error)
            return None

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune tries no more."""
        if _id(trial) not in self._given_up:
            self._given_up.add(_id(trial))
            self._record(trial)

    def _record(self, trial: Any) -> None:
        reason = self._hang_watch.reason(_id(trial)) or failure_reason(trial)
        final = _id(trial) in self._given_up
        self._write(trial, lambda folder: record_failure(folder, _id(trial), reason, final=final))

    def _write(self, trial: Any, record: Callable[[StudyFolder], None]) -> None:
        try:
            self._place.change_trial(_id(trial), record)
        except (OSError, StudyFolderError) as error:
            _log.warning("the failure of trial %s could not be recorded: %s", trial, error)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class ProgressReporter(tune.Callback):
    """Feeds the live table, and gathers the study's records every now and then so that a reader can watch."""

    def __init__(self, progress: Progress, place: StudyPlace) -> None:
        self._progress = progress
        self._place = place
        self._folder = place.folder
        self._gathered_at = time.monotonic()
        self._gathering_s = 0.0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on."""
        self._progress.start(_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial finished an epoch."""
        if "train_loss" in result:
            self._progress.update(_id(trial), result)
        self._gather_when_due()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended; its state on disk says how."""
        try:
            self._place.fetch_trial(_id(trial))
            state = load_state(self._folder, _id(trial))
        except (OSError, StudyFolderError) as error:
            self._progress.end(_id(trial), "failed", str(error))
            return
        if state is None:
            self._progress.end(_id(trial), "failed", "its folder is gone")
        else:
            self._progress.end(_id(trial), state.status, state.reason)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt failed; the trial goes on from its newest checkpoint, unless it has had its chances."""
        if trial.max_failures < 0:
            self._progress.end(_id(trial), "waiting", f"goes on after: {self._reason(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The last attempt failed."""
        self._progress.end(_id(trial), "failed", self._reason(trial))

    def _reason(self, trial: Any) -> str:
        """As FailureRecorder, which is asked before, has noted it."""
        with contextlib.suppress(StudyFolderError):
            state = load_state(self._folder, _id(trial))
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

    def __getstate__(self) -> dict[str, Any]:
        return {}


class RunningTrials(tune.Callback):
    """After an interruption, tells it which trials still run; interrupts by itself where the study's lock was lost."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop."""
        if self._interruption.lock.lost:
            self._interruption.request()
        if self._interruption.requested_at is not None:
            self._interruption.observe_running({str(t) for t in trials if t.status == "RUNNING"})

    def __getstate__(self) -> dict[str, Any]:
        return {}


class ShareKeeper(tune.Callback):
    """Lets Tune start no more trials than the study's share of a cluster; the share changes as other studies come and go."""

    def __init__(self, trials: Any, share: FairShare) -> None:
        self._trials = trials  # Tune's source of trials, which starts one whenever fewer than its max_concurrent run
        self._share = share

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop."""
        self._trials.max_concurrent = self._share.trials

    def __getstate__(self) -> dict[str, Any]:
        return {}


class InterruptionStopper(tune.Stopper):
    """Ends the experiment after an interruption, once the trials that were running have saved and ended."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped by Tune: interrupted ones end by themselves."""
        return False

    def stop_all(self) -> bool:
        """True when all that ran has ended, or had its time."""
        return self._interruption.over()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _id(trial: Any) -> str:
    return str(trial.config["trial"]["trial_id"])


_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b.*")


def failure_reason(trial: Any) -> str:
    """One line: the error that ended the trial's last attempt, from Tune's error file (its last section)."""
    try:
        section = Path(trial.error_file).read_text(errors="replace").rpartition("Failure #")[2]
    except (OSError, TypeError):
        section = ""
    lines = [line.strip() for line in section.splitlines()[1:] if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or ["the worker ended without an error message"])[-1][:500]
