"""Optimisation history: the objectives of every trial in the order of the search, and the best so far.

A pruned trial stands at the last value it reported, hollow; one without any value is a mark at the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import BEST, add_status_legend, draw_trials, use_objective_axis
from analysis.drawing.selection import require
from analysis.drawing.style import format_value, new_figure, plot, styled
from analysis.search.history import Search, best_so_far, load_search
from analysis.search.objectives import Objective


@dataclass(frozen=True)
class SearchHistory:
    """Per objective: `points` (number, value, status, enqueued, epochs; value NaN without any) and `best` (number, value)."""

    objectives: tuple[Objective, ...]
    points: tuple[pd.DataFrame, ...]
    best: tuple[pd.DataFrame, ...]


def build_search_history(search: Search) -> SearchHistory:
    """The final value of completed trials, the last reported one of others (of the first objective)."""
    points = require(search.points, "the search has not begun a trial yet")
    others = [points.assign(value=points[column].astype(float)) for column in search.objective_columns[1:]]
    best = tuple(best_so_far(search, place) for place in range(len(search.objectives)))
    return SearchHistory(search.objectives, (points, *others), best)


@styled()
def draw_search_history(data: SearchHistory) -> Figure:
    """A panel per objective."""
    figure = new_figure(9.5, 1.2 + 3.2 * len(data.objectives), "Optimisation history")
    rows = figure.subplots(len(data.objectives), 1, squeeze=False, sharex=True)[:, 0]
    for axes, objective, points, best in zip(rows, data.objectives, data.points, data.best, strict=True):
        hovers = [f"trial {row.number}, {row.status} after {row.epochs} epochs" for row in points.itertuples()]
        draw_trials(axes, points, points["number"], hovers)
        told = f"best so far: {format_value(float(best['value'].iloc[-1]))}" if len(best) else ""
        plot(axes, best["number"], best["value"], told, drawstyle="steps-post", color=BEST, linewidth=1.8, zorder=1.5)
        use_objective_axis(axes, objective)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    rows[-1].set_xlabel("trial")
    add_status_legend(figure, data.points[0], [Line2D([], [], color=BEST, linewidth=1.8, label="best so far")])
    return figure


FIGURE = FigureKind(
    name="search_history", section="search", position=10, title="Optimisation history",
    caption="Every trial in the order of the search; hollow marks ended early and stand at the last value that they reported.",
    build=lambda study, subject: build_search_history(load_search(study)),
    draw=lambda data, subject: draw_search_history(data),
)  # fmt: skip
