"""The learning-rate schedule: the rate after the scheduler's step at the end of each epoch, by cell.

Trials of one cell have the same schedule, so one of them is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.selection import CellRows, ShownCell, rows_by_cell, shown_cells
from analysis.drawing.style import new_cell_figure, plot_cell, styled, use_epoch_axis, use_plain_axis
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


@styled()
def draw_schedule(data: CellRows) -> Figure:
    """One line per cell."""
    figure = new_cell_figure(8.5, 3.9, "Learning rate after each epoch", data.labels)
    axes = figure.subplots()
    for index, label in data.labels:
        own = data.of(index)
        plot_cell(axes, own, "epoch", "learning_rate", index, f"{label}: from {own['learning_rate'].iloc[0]:.4g}")
    axes.set_xlabel("epochs finished")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    use_epoch_axis(axes)
    use_plain_axis(axes, "y")
    return figure


FIGURE = FigureKind(
    name="learning_rate", section="schedule", position=10, title="Learning rate",
    caption="The rate after the scheduler's step at the end of each epoch.",
    build=lambda study, subject: build_schedule(study.epochs, shown_cells(study)),
    draw=lambda data, subject: draw_schedule(data),
)  # fmt: skip
