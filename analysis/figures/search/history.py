"""Optimisation history: the objectives of every trial in the order of the search, and the best so far.

A pruned trial stands at the last value it reported, hollow; one without any value is a mark at the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import BEST, ENQUEUED, status_handles, status_style, use_objective_axis
from analysis.drawing.selection import require
from analysis.drawing.style import format_value, new_figure, set_hover, styled
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
    trials = require(search.trials, "the search has not begun a trial yet")
    last = search.curves.groupby("number")["value"].last().reindex(trials["number"]).to_numpy()
    points = []
    for place, column in enumerate(search.objective_columns):
        value = trials[column].to_numpy(dtype=float)
        reported = np.where(np.isfinite(value), value, last if place == 0 else np.nan)
        points.append(pd.DataFrame({
            "number": trials["number"], "value": reported, "status": trials["status"],
            "enqueued": trials["source"] == "enqueued", "epochs": trials["epochs"],
        }))  # fmt: skip
    return SearchHistory(
        search.objectives, tuple(points),
        tuple(best_so_far(search, place) for place in range(len(search.objectives))),
    )  # fmt: skip


@styled()
def draw_search_history(data: SearchHistory) -> Figure:
    """A panel per objective."""
    figure = new_figure(9.5, 1.2 + 3.2 * len(data.objectives), "Optimisation history")
    rows = figure.subplots(len(data.objectives), 1, squeeze=False, sharex=True)[:, 0]
    for axes, objective, points, best in zip(rows, data.objectives, data.points, data.best, strict=True):
        _draw_points(axes, points)
        (line,) = axes.step(best["number"], best["value"], where="post", color=BEST, linewidth=1.8, zorder=1.5)
        if len(best):
            set_hover(line, f"best so far: {format_value(float(best['value'].iloc[-1]))}")
        use_objective_axis(axes, objective)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    rows[-1].set_xlabel("trial")
    statuses = list(data.points[0]["status"].unique())
    handles = status_handles(statuses, enqueued=bool(data.points[0]["enqueued"].any()))
    handles.append(Line2D([], [], color=BEST, linewidth=1.8, label="best so far"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
    return figure


def _draw_points(axes: Axes, points: pd.DataFrame) -> None:
    for row in points.to_dict("records"):
        style = status_style(str(row["status"]))
        if row["status"] != "completed":
            style["markerfacecolor"] = "none"
        told = f"trial {row['number']}, {row['status']} after {row['epochs']} epochs"
        if np.isfinite(row["value"]):
            (mark,) = axes.plot(row["number"], row["value"], **style)
            set_hover(mark, f"{told}: {format_value(float(row['value']))}")
            if row["enqueued"]:
                axes.plot(row["number"], row["value"], linestyle="none", **ENQUEUED)
        else:
            (mark,) = axes.plot(row["number"], 0.02, transform=axes.get_xaxis_transform(), **style)
            set_hover(mark, told)


FIGURE = FigureKind(
    name="search_history", section="search", position=10, title="Optimisation history",
    caption="Every trial in the order of the search; hollow marks ended early and stand at the last value that they reported.",
    build=lambda study, subject: build_search_history(load_search(study)),
    draw=lambda data, subject: draw_search_history(data),
)  # fmt: skip
