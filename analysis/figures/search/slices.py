"""Slices: the first objective against each searched field by itself, completed trials as dots, pruned ones at their last value."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import (
    ScaledTrials,
    add_status_legend,
    draw_trials,
    scale_trials,
    use_objective_axis,
    use_scale,
)
from analysis.drawing.selection import require
from analysis.drawing.style import new_figure, styled
from analysis.search.history import Search, load_search


def build_search_slices(search: Search) -> ScaledTrials:
    """Every trial with a value: the final one, else the last reported one."""
    points = search.points
    known = points[search.parameter_columns.values()].notna().all(axis=1) & np.isfinite(points["value"])
    return scale_trials(search, require(points[known], "no trial has reported a value yet"))


@styled()
def draw_search_slices(data: ScaledTrials) -> Figure:
    """A panel per field."""
    columns = min(3, len(data.scales))
    rows = math.ceil(len(data.scales) / columns)
    figure = new_figure(3.6 * columns + 0.8, 1.2 + 2.9 * rows, f"Slices: {data.objective.title} against each field")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(data.scales) :]:
        axes.remove()
    hovers = [f"trial {row.number}, {row.status}" for row in data.points.itertuples()]
    for axes, scale in zip(grid.flat, data.scales, strict=False):
        draw_trials(axes, data.points, scale.places, hovers)
        use_scale(axes, scale)
    for axes in grid[:, 0]:
        use_objective_axis(axes, data.objective)
    add_status_legend(figure, data.points)
    return figure


FIGURE = FigureKind(
    name="search_slices", section="search", position=50, title="Slices",
    caption="Each field by itself; hollow marks ended early, at their last value.",
    build=lambda study, subject: build_search_slices(load_search(study)),
    draw=lambda data, subject: draw_search_slices(data),
)  # fmt: skip
