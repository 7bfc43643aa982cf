"""Intermediate values: the first objective of every trial by epoch, pruned ones to where they ended."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import BEST, status_style, use_objective_axis
from analysis.drawing.selection import require
from analysis.drawing.style import MUTED, format_value, new_figure, set_hover, styled, use_epoch_axis
from analysis.search.history import Search, load_search
from analysis.search.objectives import Objective


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
    done = search.completed.sort_values("objective_1", ascending=search.is_better() < 0)
    best = int(done["number"].iloc[0]) if len(done) else None
    labelled = curves.assign(status=curves["number"].map(status))
    return SearchCurves(search.objectives[0], labelled, best)


@styled()
def draw_search_curves(data: SearchCurves) -> Figure:
    """A line per trial; a mark where a pruned or failed one ended."""
    figure = new_figure(9.0, 4.6, "Values reported by epoch")
    axes = figure.subplots()
    for number, curve in data.curves.groupby("number"):
        status = str(curve["status"].iloc[0])
        completed, best = status == "completed", number == data.best
        color = BEST if best else status_style("completed")["color"] if completed else MUTED
        (line,) = axes.plot(
            curve["epoch"], curve["value"], color=color, linewidth=2.4 if best else 1.1,
            alpha=1.0 if best else 0.75 if completed else 0.6, zorder=3 if best else 2 if completed else 1.5,
        )  # fmt: skip
        set_hover(line, f"trial {number}, {status}: {format_value(float(curve['value'].iloc[-1]))} at the end")
        if not completed or len(curve) == 1:
            end = curve.iloc[-1]
            axes.plot(end["epoch"], end["value"], **status_style(status))
    use_epoch_axis(axes)
    axes.set_xlabel("epoch")
    use_objective_axis(axes, data.objective)
    figure.legend(handles=_handles(data), loc="outside lower center", ncols=5)
    return figure


def _handles(data: SearchCurves) -> list[Line2D]:
    present = set(data.curves["status"])
    handles = []
    if data.best is not None:
        handles.append(Line2D([], [], color=BEST, linewidth=2.4, label=f"best, trial {data.best}"))
    if "completed" in present:
        handles.append(Line2D([], [], color=status_style("completed")["color"], linewidth=1.1, label="completed"))
    for status in sorted(present - {"completed"}):
        handles.append(Line2D([], [], **(status_style(status) | {"linestyle": "-"}), label=f"{status} here"))
        handles[-1].set_markeredgecolor(status_style(status)["color"])
        handles[-1].set_color(MUTED)
        handles[-1].set_markerfacecolor(status_style(status)["color"])
    return handles


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
