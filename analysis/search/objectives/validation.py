"""What a trial comes to on the training images that a searched trial does not learn from."""

from __future__ import annotations

from analysis.search.objectives import Objective

ACCURACY = Objective(
    name="val_accuracy", title="validation accuracy", direction="maximize", kind="accuracy",
    meaning="fraction of the held-out training images that are right after the last epoch",
    of_epoch=lambda row: row.get("val_accuracy"),
)  # fmt: skip
LOSS = Objective(
    name="val_loss", title="validation loss", direction="minimize", kind="loss",
    meaning="mean cross-entropy on the held-out training images after the last epoch, in nats",
    of_epoch=lambda row: row.get("val_loss"),
)  # fmt: skip
