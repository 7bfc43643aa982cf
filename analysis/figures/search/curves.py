"""Intermediate values: the first objective of every trial by epoch, pruned ones to where they ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import BEST, status_style, use_objective_axis
from analysis.drawing.selection import require
from analysis.drawing.style import MUTED, add_legend, format_value, new_figure, plot, styled, use_epoch_axis
from analysis.search.history import Search, load_search
from analysis.search.objectives import Objective

_BEST: dict[str, Any] = {"color": BEST, "linewidth": 2.4, "zorder": 3}
_COMPLETED: dict[str, Any] = {"color": status_style("completed")["color"], "linewidth": 1.1, "alpha": 0.75, "zorder": 2}
_ENDED_EARLY: dict[str, Any] = {"color": MUTED, "linewidth": 1.1, "alpha": 0.6, "zorder": 1.5}


@dataclass(frozen=True)
class SearchCurves:
    """`curves` has columns number, epoch, value, status; `best` is the number of the best completed trial."""

    objective: Objective
    curves: pd.DataFrame
    best: int | None


def build_search_curves(search: Search) -> SearchCurves:
    """Every reported value."""
    curves = require(search.curves, "no trial has reported a value yet")
    status = search.trials.set_index("number")["status"]
    best = int(search.ranked["number"].iloc[0]) if len(search.completed) else None
    labelled = curves.assign(status=curves["number"].map(status))
    return SearchCurves(search.objectives[0], labelled, best)


@styled()
def draw_search_curves(data: SearchCurves) -> Figure:
    """A line per trial; a mark where a pruned or failed one ended."""
    figure = new_figure(9.0, 4.6, "Values reported by epoch")
    axes = figure.subplots()
    for number, curve in data.curves.groupby("number"):
        status = str(curve["status"].iloc[0])
        end = curve.iloc[-1]
        look = _BEST if number == data.best else _COMPLETED if status == "completed" else _ENDED_EARLY
        told = f"trial {number}, {status}: {format_value(float(end['value']))} at the end"
        plot(axes, curve["epoch"], curve["value"], told, **look)
        if status != "completed" or len(curve) == 1:
            axes.plot(end["epoch"], end["value"], **status_style(status))
    use_epoch_axis(axes)
    axes.set_xlabel("epoch")
    use_objective_axis(axes, data.objective)
    present = set(data.curves["status"])
    looks = {f"best, trial {data.best}": _BEST} if data.best is not None else {}
    looks |= {"completed": _COMPLETED} if "completed" in present else {}
    for status in sorted(present - {"completed"}):
        mark = status_style(status)
        inked = {"color": MUTED, "markerfacecolor": mark["color"], "markeredgecolor": mark["color"], "linestyle": "-"}
        looks[f"{status} here"] = mark | inked
    add_legend(figure, [Line2D([], [], label=label, **look) for label, look in looks.items()], 5)
    return figure


def _describe_schedules(search: Search) -> str:
    """Whether values at the same epoch can be compared."""
    differing = [name.replace("_", " ") for name in ("epochs", "warmup_epochs") if name in search.description.space]
    if not differing:
        return "All trials run the same schedule, so values at the same epoch can be compared."
    return (
        f"Trials differ in {' and '.join(differing)}, so values at the same early epoch are not quite comparable: one that "
        "warms up longer, or has more epochs, starts later and is pruned sooner than it deserves."
    )


FIGURE = FigureKind(
    name="search_curves", section="search", position=70, title="Values by epoch",
    caption=lambda study, subject: f"What the pruner saw. {_describe_schedules(load_search(study))}",
    build=lambda study, subject: build_search_curves(load_search(study)),
    draw=lambda data, subject: draw_search_curves(data),
)  # fmt: skip
