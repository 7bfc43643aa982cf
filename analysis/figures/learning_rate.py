"""The learning-rate schedule: the rate after the scheduler's step at the end of each epoch, by cell.

Trials of one cell have the same schedule, so one of them is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.drawing.chart import Chart, Panel
from analysis.drawing.declaration import FigureKind
from analysis.drawing.selection import CellRows, ShownCell, rows_by_cell, shown_cells
from analysis.records.phases import first_learning_rate


def build_schedule(epochs: pd.DataFrame, cells: Sequence[ShownCell]) -> CellRows:
    """The learning_rate of every cell before training, which is epoch 0, and after each epoch of its longest trial."""
    parts = []
    for cell in cells:
        own = epochs[epochs["trial_id"].isin(cell.trial_ids)]
        rates = own.groupby("epoch")["learning_rate"].first().reset_index().dropna()
        if len(rates):
            start = pd.DataFrame({"epoch": [0], "learning_rate": [first_learning_rate(cell.config)]})
            parts.append(pd.concat([start, rates], ignore_index=True).assign(cell=cell.index))
    return rows_by_cell(pd.concat(parts) if parts else pd.DataFrame(), cells, "no epoch has been recorded")


def chart_schedule(data: CellRows) -> Chart:
    """One line per cell."""
    rows = data.rows.rename(columns={"learning_rate": "mean"}).assign(panel="learning_rate", sd=float("nan"), num=1)
    panel = Panel("learning_rate", "learning rate")
    return Chart("Learning rate after each epoch", (panel,), data.labels, {"epoch": "epochs finished"}, rows)


FIGURE = FigureKind(
    name="learning_rate", section="schedule", position=10, title="Learning rate",
    caption="The rate after the scheduler's step at the end of each epoch.",
    build=lambda study, subject: build_schedule(study.epochs, shown_cells(study)),
    chart=lambda data, subject: chart_schedule(data),
)  # fmt: skip
