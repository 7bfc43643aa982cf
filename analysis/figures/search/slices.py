"""Slices: the first objective against each searched field by itself, completed trials as dots, pruned ones at their last value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import (
    ENQUEUED,
    AxisScale,
    build_scale,
    status_handles,
    status_style,
    use_objective_axis,
    use_scale,
)
from analysis.drawing.selection import require
from analysis.drawing.style import format_value, new_figure, set_hover, styled
from analysis.search.history import Search, load_search
from analysis.search.objectives import Objective


@dataclass(frozen=True)
class SearchSlices:
    """`points` has columns number, value, status, enqueued; `scales` the place of every point per field."""

    objective: Objective
    points: pd.DataFrame
    scales: tuple[AxisScale, ...]


def build_search_slices(search: Search) -> SearchSlices:
    """Every trial with a value: the final one, else the last reported one."""
    trials = search.trials
    last = search.curves.groupby("number")["value"].last().reindex(trials["number"]).to_numpy(dtype=float)
    final = trials["objective_1"].to_numpy(dtype=float)
    trials = trials.assign(value=np.where(np.isfinite(final), final, last))
    known = trials[search.parameter_columns.values()].notna().all(axis=1) & np.isfinite(trials["value"])
    trials = require(trials[known], "no trial has reported a value yet")
    points = trials[["number", "value", "status"]].assign(enqueued=trials["source"] == "enqueued")
    scales = tuple(build_scale(search, name, trials) for name in search.description.space)
    return SearchSlices(search.objectives[0], points.reset_index(drop=True), scales)


@styled()
def draw_search_slices(data: SearchSlices) -> Figure:
    """A panel per field."""
    columns = min(3, len(data.scales))
    rows = -(-len(data.scales) // columns)
    figure = new_figure(3.6 * columns + 0.8, 1.2 + 2.9 * rows, f"Slices: {data.objective.title} against each field")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(data.scales) :]:
        axes.remove()
    for axes, scale in zip(grid.flat, data.scales, strict=False):
        for row, place in zip(data.points.to_dict("records"), scale.places, strict=True):
            style = status_style(str(row["status"]))
            if row["status"] != "completed":
                style["markerfacecolor"] = "none"
            (mark,) = axes.plot(place, row["value"], **style)
            set_hover(mark, f"trial {row['number']}, {row['status']}: {format_value(float(row['value']))}")
            if row["enqueued"]:
                axes.plot(place, row["value"], linestyle="none", **ENQUEUED)
        use_scale(axes, "x", scale)
    for axes in grid[:, 0]:
        use_objective_axis(axes, data.objective)
    handles = status_handles(list(data.points["status"].unique()), enqueued=bool(data.points["enqueued"].any()))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


FIGURE = FigureKind(
    name="search_slices", section="search", position=50, title="Slices",
    caption="Each field by itself; hollow marks ended early, at their last value.",
    build=lambda study, subject: build_search_slices(load_search(study)),
    draw=lambda data, subject: draw_search_slices(data),
)  # fmt: skip
