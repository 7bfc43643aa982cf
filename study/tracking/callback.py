"""Tune callback of the W&B mirror, on Ray's WandbLoggerCallback: passes reports on to the writing process.

Of Ray's class it keeps the hooks and replaces what they did: no logging actors, no waiting, no key. Imports Ray and
wandb: import this module only when there is a mirror.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.air.integrations.wandb import WandbLoggerCallback

from study.tracking.mirror import Mirror
from study.tracking.rows import EPOCH_METRICS

_EPOCH_NAMES = {"epoch", "step", *EPOCH_METRICS.values()}


class WandbMirror(WandbLoggerCallback):
    """Tells `mirror` what trials report and when they end. No exception gets out: it would end the experiment."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__()
        self._mirror = mirror

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Ray's class looks for a key here and raises without one."""

    def log_trial_start(self, trial: Any) -> None:
        """Nothing: a run is opened with its first epoch."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """A trial finished an epoch: its record, and the step series that the report carries."""
        if "step_series" not in result:
            return
        epoch = {name: value for name, value in result.items() if name in _EPOCH_NAMES}
        self._guard(lambda: self._mirror.post_epoch(_id(trial), epoch, result["step_series"]))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """A trial ended; its state on disk says how."""
        self._guard(lambda: self._mirror.post_end(_id(trial)))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Nothing: the driver ends the mirror, within a time that it knows."""

    def _guard(self, post: Callable[[], None]) -> None:
        try:
            post()
        except Exception as error:  # noqa: BLE001 - of whatever kind, the study is worth more than its mirror
            self._mirror.warn(f"a report could not be passed on ({error!r})")

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _id(trial: Any) -> str:
    return str(trial.config["trial"]["trial_id"])
