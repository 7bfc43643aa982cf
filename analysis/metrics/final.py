"""What a trial ends with."""

from __future__ import annotations

from analysis.metrics import Metric

FINAL_TEST_ACCURACY = Metric(
    name="final_test_accuracy", title="final test accuracy", kind="accuracy", meaning="test accuracy after the last epoch",
    better="higher", position=10, measure=lambda epochs: epochs.last["test_accuracy"],
)  # fmt: skip
FINAL_TRAIN_ACCURACY = Metric(
    name="final_train_accuracy", title="final train accuracy", kind="accuracy", meaning="running over the last epoch",
    better="higher", position=20, measure=lambda epochs: epochs.last["train_accuracy"],
)  # fmt: skip
GAP = Metric(
    name="gap", title="gap", kind="points", meaning="final train accuracy less final test accuracy",
    better="lower", position=30, measure=lambda epochs: epochs.last["train_accuracy"] - epochs.last["test_accuracy"],
)  # fmt: skip
FINAL_TRAIN_LOSS = Metric(
    name="final_train_loss", title="final train loss", kind="loss", meaning="mean over the steps of the last epoch",
    better="lower", position=40, measure=lambda epochs: epochs.last["train_loss"],
)  # fmt: skip
FINAL_TEST_LOSS = Metric(
    name="final_test_loss", title="final test loss", kind="loss", meaning="test loss after the last epoch",
    better="lower", position=50, measure=lambda epochs: epochs.last["test_loss"],
)  # fmt: skip
FINAL_VAL_ACCURACY = Metric(
    name="final_val_accuracy", title="final validation accuracy", kind="accuracy", meaning="on held-out training images",
    better="higher", position=80, optional=True, measure=lambda epochs: epochs.last["val_accuracy"],
)  # fmt: skip
