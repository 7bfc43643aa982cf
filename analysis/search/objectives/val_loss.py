"""Loss on the training images that a searched trial does not learn from."""

from __future__ import annotations

from analysis.search.objectives import Objective

OBJECTIVE = Objective(
    name="val_loss",
    title="validation loss",
    meaning="mean cross-entropy on the held-out training images after the last epoch, in nats",
    direction="minimize",
    kind="loss",
    of_epoch=lambda row: row.get("val_loss"),
)
