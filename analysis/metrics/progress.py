"""How a trial gets to where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.metrics import Metric, TrialEpochs

if TYPE_CHECKING:
    import pandas as pd

CONVERGED_WITHIN = 0.05


def _find_convergence(epochs: TrialEpochs) -> pd.Series:
    every, final = epochs.every, epochs.last["test_accuracy"]
    distance = every["test_accuracy"] - every["trial_id"].map(final).astype("float64")
    far = every[distance.abs() > CONVERGED_WITHIN]
    settled = (far.groupby("trial_id")["epoch"].max() + 1).reindex(final.index).fillna(1.0)
    return settled.where(final.notna())


EPOCH_1_TEST_ACCURACY = Metric(
    name="epoch1_test_accuracy", title="epoch 1 test accuracy", kind="accuracy", meaning="test accuracy after epoch 1",
    better="higher", position=60,
    measure=lambda epochs: epochs.first["test_accuracy"].where(epochs.first["epoch"] == 1),
)  # fmt: skip
BEST_TEST_ACCURACY = Metric(
    name="best_test_accuracy", title="best test accuracy", kind="accuracy", compared=False,
    meaning="highest of all epochs: chosen on the test set", better="higher", position=70,
    measure=lambda epochs: epochs.by_trial["test_accuracy"].max(),
)  # fmt: skip
CONVERGENCE_EPOCH = Metric(
    name="convergence_epoch", title="convergence epoch", kind="count", compared=False, better="lower", position=90,
    meaning="first epoch from which test accuracy stays within 5 points of its final value", measure=_find_convergence,
)  # fmt: skip
