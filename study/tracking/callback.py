"""Ray's WandbLoggerCallback as this project uses it: it names the trials that run; their runs are made from their folders.

Of Ray's class it keeps the hooks and replaces what they did: no logging actors, no waiting, no key. Imports Ray and
wandb: import this module only when there is a mirror.
"""

from __future__ import annotations

from typing import Any

from ray.air.integrations.wandb import WandbLoggerCallback

from study.tracking.mirror import Mirror


class WandbMirror(WandbLoggerCallback):
    """Has `mirror` follow every trial that Tune starts. All else, a trial's end too, `mirror` finds in the trial's folder."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__()
        self._mirror = mirror

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: Ray's class looks for a key here and raises without one."""

    def log_trial_start(self, trial: Any) -> None:
        """A trial starts, or goes on."""
        self._mirror.follow(str(trial.config["trial"]["trial_id"]))

    def log_trial_result(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: what was measured reaches the trial's folder."""

    def log_trial_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: how a trial ended is in its folder, or will be."""

    def on_experiment_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the driver ends the mirror, within a time that it knows."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
