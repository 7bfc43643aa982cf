"""The table `learning_rate`: the schedule of every cell at the published epochs."""

from __future__ import annotations

import pandas as pd

from analysis.claims.published import list_epoch_values
from analysis.records.frames import Study
from analysis.records.phases import shown_epochs
from analysis.results.cell_columns import add_factors, factor_columns, in_study_order
from analysis.results.result_table import TableColumn, TableContent, TableKind


def build_learning_rate(study: Study) -> TableContent:
    """Learning rate after the scheduler step of the shown epochs, one row per cell and epoch."""
    wanted = {cell.cell_id: shown_epochs(int(cell.config["epochs"])) for cell in study.info.cells}
    epochs = study.epochs.merge(study.trials[["trial_id", "cell_id"]], on="trial_id")
    shown = [epoch in wanted[cell] for cell, epoch in zip(epochs["cell_id"], epochs["epoch"], strict=True)]
    frame = epochs[pd.Series(shown, dtype=bool, index=epochs.index)]
    frame = frame.groupby(["cell_id", "epoch"])["learning_rate"].mean().reset_index()
    frame = frame.rename(columns={"learning_rate": "learning_rate_after"})
    published = list_epoch_values(study, "learning_rate")
    keys = zip(frame["cell_id"], frame["epoch"], strict=True)
    frame["published"] = pd.Series([published.get(key) for key in keys], dtype="float64")
    columns = (
        *factor_columns(study), TableColumn("epoch", "epoch", "count"),
        TableColumn("learning_rate_after", "after the epoch", "learning_rate"), TableColumn("published", "published", "learning_rate"),
    )  # fmt: skip
    frame = add_factors(study, in_study_order(study, frame, ["epoch"]))
    return TableContent(frame, columns)


TABLE = TableKind(
    name="learning_rate",
    section="schedule",
    position=10,
    title="Learning rate after the scheduler step of an epoch",
    build=build_learning_rate,
)
