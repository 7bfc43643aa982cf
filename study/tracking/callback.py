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

    def log_trial_start(self, trial: Any) -> None:
        """A trial starts, or goes on."""
        self._mirror.follow(str(trial.config["trial"]["trial_id"]))

    def do_nothing(self, *args: Any, **kwargs: Any) -> None:
        """In the place of what Ray's class does: raise without a key, log what is in the trial's folder, wait for its actors."""

    setup = log_trial_result = log_trial_end = on_experiment_end = do_nothing

    def __getstate__(self) -> dict[str, Any]:
        return {}
