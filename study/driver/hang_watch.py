"""A limit to how long a trial may say nothing. Imports Ray."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune

from study.driver.trial_runner import read_trial_id

_BUSY_S = 1.0
_LOOK_INTERVAL_S = 0.2  # Tune's loop turns once per report, and there may be thousands of trials


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
        self._ended.pop(read_trial_id(trial), None)
        self._heard_at[read_trial_id(trial)] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Any report is a sign of life."""
        self._heard_at[read_trial_id(trial)] = time.monotonic()

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
            heard_at = self._heard_at.get(read_trial_id(trial))
            if trial.status == "RUNNING" and heard_at is not None and now - heard_at > self._timeout_s:
                self._end(trial)

    def _end(self, trial: Any) -> None:
        del self._heard_at[read_trial_id(trial)]
        worker = trial.temporary_state.ray_actor
        if worker is not None:
            self._ended[read_trial_id(trial)] = (
                f"no report within {self._timeout_s:g} s (--trial-timeout): its worker was ended"
            )
            ray.kill(worker)

    def __getstate__(self) -> dict[str, Any]:
        return {}
