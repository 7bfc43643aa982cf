"""The table `stability`: the batch sharpness that each cell settled at, beside the plateaus that theory predicts of it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.comparison.stability import plateaus, settled_sharpness
from analysis.records.frames import Study
from analysis.results.cell_columns import add_factors, factor_columns, in_study_order
from analysis.results.result_table import TableColumn, TableContent, TableKind


def build_stability(study: Study) -> TableContent:
    """One row per cell that has measured it."""
    settled = settled_sharpness(study).groupby("cell_id")["value"]
    frame = settled.agg(sharpness="mean", sd="std", seeds="count").reset_index()
    predicted = pd.DataFrame(
        [plateaus(study.cells[cell].config) for cell in frame["cell_id"]], columns=["small", "large"]
    )
    frame = frame.join(predicted)
    frame["over_small"], frame["over_large"] = frame["sharpness"] / frame["small"], frame["sharpness"] / frame["large"]
    top = study.epochs[["trial_id", "epoch", "top_eigenvalue"]].dropna().astype({"trial_id": str})
    top = top.merge(study.trials[["trial_id", "cell_id"]], on="trial_id").sort_values("epoch")
    last = top.groupby("trial_id").last().groupby("cell_id")["top_eigenvalue"].mean()
    frame["top"] = frame["cell_id"].map(last).astype(np.float64)
    columns = (
        *factor_columns(study), TableColumn("seeds", "seeds", "count"),
        TableColumn("sharpness", "batch sharpness", "number", spread="sd", meaning="mean over the later half of the epochs and over seeds"),
        TableColumn("small", "2(1-b)/lr", "number", meaning="predicted for small batches; 2/lr without momentum"),
        TableColumn("large", "2(1+b)/lr", "number", meaning="predicted for large batches; 2/lr without momentum"),
        TableColumn("over_small", "over the first", "number"), TableColumn("over_large", "over the second", "number"),
        TableColumn("top", "largest eigenvalue", "number", meaning="of the loss on a fixed part of the training images, measured last"),
    )  # fmt: skip
    return TableContent(
        in_study_order(study, add_factors(study, frame), []),
        columns,
        ("b: momentum, lr: learning rate; predicted of plain SGD at a constant learning rate alone.",),
    )


TABLE = TableKind(
    name="stability", section="dynamics", position=60, title="Batch sharpness and its predicted plateaus",
    build=build_stability, applies=lambda study: bool(study.epochs["batch_sharpness"].notna().any()),
)  # fmt: skip
