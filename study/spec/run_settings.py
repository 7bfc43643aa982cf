"""How a study is run: all that the command line says beside what is studied. The defaults stand here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from study.spec.errors import SpecError
from trainable.records.trial_state import CHECKPOINT_INTERVAL_S


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """Settings of one invocation of `study.run`, checked when they are made. Errors: SpecError naming the option."""

    data: Path | None = None  # folder of the data set; else the cache, else a download
    results: str = "results"  # parent of the study folder: a folder or a URL
    plan: bool = False  # say what would run, and run nothing
    calibrate: bool = False  # time a few steps first, and estimate from them
    address: str | None = None  # of a running Ray cluster; else a Ray of our own
    gpus_per_trial: float | None = None  # else one where a GPU is visible
    max_concurrent: int | None = None  # trials at the same time; else as many as fit
    retry_failed: bool = True
    accept_changes: bool = False  # go on with a study that was made with other data, code or torch
    checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S
    max_failures: int = 2  # retries of a failing trial
    trial_timeout_s: float | None = None  # an attempt that finishes no epoch for so long is ended, as a failure
    wandb: str | None = None  # off, offline, online or auto; else as $WANDB_MODE and the key say
    wandb_project: str | None = None  # else the one of the study so far
    report: bool = True  # write it at the end
    serve: bool = False  # the live page, while it runs
    verbose: bool = False  # show what Ray says

    def __post_init__(self) -> None:
        if self.max_failures < 0:
            raise SpecError(f"--max-failures {self.max_failures}: 0 or more retries")
        if not (math.isfinite(self.checkpoint_interval_s) and self.checkpoint_interval_s >= 0):
            raise SpecError(f"--checkpoint-interval {self.checkpoint_interval_s:g}: 0 or more seconds")
        if self.calibrate and self.address is not None:
            raise SpecError(
                "--calibrate times this machine, but with --address the trials run on others: leave one of them out"
            )
        if self.trial_timeout_s is not None and not self.trial_timeout_s > 0:
            raise SpecError(f"--trial-timeout {self.trial_timeout_s:g}: more than 0 seconds")
