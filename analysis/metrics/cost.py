"""What a trial takes."""

from __future__ import annotations

from analysis.metrics import Metric

STEPS_PER_EPOCH = Metric(
    name="steps_per_epoch", title="steps per epoch", kind="count", meaning="optimiser steps of one epoch",
    compared=False, position=100, measure=lambda epochs: epochs.last["step"] / epochs.last["epoch"],
)  # fmt: skip
TRAIN_TIME = Metric(
    name="train_time_s", title="train time", kind="seconds", compared=False, better="lower", timed=True, position=110,
    meaning="augmentation and steps of all epochs, without evaluation",
    measure=lambda epochs: epochs.by_trial["train_time_s"].sum(min_count=1),
)  # fmt: skip
