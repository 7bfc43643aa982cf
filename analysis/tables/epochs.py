"""The table `epochs`: how losses and accuracies went, epoch by epoch, with what was published."""

from __future__ import annotations

import pandas as pd

from analysis.claims.published import list_epoch_values
from analysis.records.frames import FINISHED, Study
from analysis.results.cell_columns import add_factors, factor_columns, in_study_order
from analysis.results.result_table import ColumnKind, TableColumn, TableContent, TableKind

_CURVES: dict[str, tuple[str, ColumnKind]] = {
    "train_loss": ("train loss", "loss"),
    "train_accuracy": ("train accuracy", "accuracy"),
    "test_loss": ("test loss", "loss"),
    "test_accuracy": ("test accuracy", "accuracy"),
    "val_loss": ("validation loss", "loss"),
    "val_accuracy": ("validation accuracy", "accuracy"),
}


def build_epochs(study: Study) -> TableContent:
    """One row per cell and epoch: mean and standard deviation of losses and accuracies over seeds."""
    usable = study.trials[study.trials["status"].isin([FINISHED, "running", "pending"])]
    epochs = study.epochs.merge(usable[["trial_id", "cell_id"]], on="trial_id")
    curves = [name for name in _CURVES if not name.startswith("val_") or epochs[name].notna().any()]
    grouped = epochs.groupby(["cell_id", "epoch"])
    frame = grouped.size().rename("seeds").to_frame()
    for name in curves:
        frame[f"{name}_mean"], frame[f"{name}_sd"] = grouped[name].mean(), grouped[name].std()
    frame = in_study_order(study, frame.reset_index(), ["epoch"])
    columns = [*factor_columns(study), TableColumn("epoch", "epoch", "count"), TableColumn("seeds", "seeds", "count")]
    for name in curves:
        title, kind = _CURVES[name]
        columns.append(TableColumn(f"{name}_mean", title, kind, spread=f"{name}_sd"))
        if published := list_epoch_values(study, name):
            keys = zip(frame["cell_id"], frame["epoch"], strict=True)
            frame[f"{name}_published"] = pd.Series([published.get(key) for key in keys], dtype="float64")
            columns.append(TableColumn(f"{name}_published", f"published {title}", kind))
    notes = ("Diverged, pruned and failed trials are left out; a trial that still runs counts as far as it is.",)
    return TableContent(add_factors(study, frame), tuple(columns), notes)


TABLE = TableKind(
    name="epochs", section="curves", position=10, title="Losses and accuracies by epoch", build=build_epochs
)
