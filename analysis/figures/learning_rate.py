"""The learning-rate schedule: the rate after the scheduler's step at the end of each epoch, by cell.

Trials of one cell have the same schedule, so one of them is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.selection import Records, ShownCell, as_frame, require, shown_cells
from analysis.drawing.style import (
    cell_handles,
    cell_style,
    marker_every,
    new_figure,
    set_hover,
    styled,
    use_epoch_axis,
    use_plain_axis,
)  # fmt: skip
from analysis.records.phases import first_learning_rate


@dataclass(frozen=True)
class Schedule:
    """`rates` has columns cell, epoch (0 is the start of training), learning_rate; `labels` the cells."""

    rates: pd.DataFrame
    labels: tuple[tuple[int, str], ...]


def build_schedule(epochs: Records, cells: Sequence[ShownCell]) -> Schedule:
    """The learning rate of every cell before training and after each epoch of its longest trial."""
    frame = as_frame(epochs)[["trial_id", "epoch", "learning_rate"]]
    parts = []
    for cell in cells:
        own = frame[frame["trial_id"].isin(cell.trial_ids)]
        rates = own.groupby("epoch")["learning_rate"].first().reset_index().dropna()
        if len(rates):
            start = pd.DataFrame({"epoch": [0], "learning_rate": [first_learning_rate(cell.config)]})
            parts.append(pd.concat([start, rates], ignore_index=True).assign(cell=cell.index))
    rates = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"cell": []})
    require(rates, "no epoch has been recorded")
    drawn = set(rates["cell"])
    return Schedule(
        rates[["cell", "epoch", "learning_rate"]], tuple((c.index, c.label) for c in cells if c.index in drawn)
    )


@styled()
def draw_schedule(data: Schedule) -> Figure:
    """One line per cell."""
    columns = min(3, len(data.labels))
    figure = new_figure(8.5, 3.9 + 0.2 * -(-len(data.labels) // columns), "Learning rate after each epoch")
    axes = figure.subplots()
    for index, label in data.labels:
        own = data.rates[data.rates["cell"] == index]
        (line,) = axes.plot(own["epoch"], own["learning_rate"], markevery=marker_every(len(own)), **cell_style(index))
        set_hover(line, f"{label}: from {own['learning_rate'].iloc[0]:.4g}")
    axes.set_xlabel("epochs finished")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    use_epoch_axis(axes)
    use_plain_axis(axes, "y")
    figure.legend(handles=cell_handles(data.labels), loc="outside lower center", ncols=columns)
    return figure


FIGURE = FigureKind(
    name="learning_rate", section="schedule", position=10, title="Learning rate",
    caption="The rate after the scheduler's step at the end of each epoch.",
    build=lambda study, subject: build_schedule(study.epochs, shown_cells(study)),
    draw=lambda data, subject: draw_schedule(data),
)  # fmt: skip
