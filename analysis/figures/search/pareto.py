"""Pareto front: two objectives of the completed trials; those on the front have no other that is better in both."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing.declaration import FigureKind, whole_study
from analysis.drawing.search_marks import BEST, ENQUEUED, TRIED_FIRST, status_style, use_objective_axis
from analysis.drawing.selection import require
from analysis.drawing.style import NothingToDraw, add_legend, format_power, format_value, new_figure, plot, styled
from analysis.search.history import Search, find_front, load_search
from analysis.search.objectives import Objective

_ON_FRONT = status_style("completed") | {"color": BEST}
_BEATEN = status_style("completed") | {"markerfacecolor": "none"}


@dataclass(frozen=True)
class SearchPareto:
    """`trials` has columns number, first, second, on_front, enqueued."""

    objectives: tuple[Objective, ...]
    trials: pd.DataFrame


def build_search_pareto(search: Search) -> SearchPareto:
    """The completed trials; errors: NothingToDraw with a single objective."""
    if len(search.objective_columns) < 2:
        raise NothingToDraw("the search has one objective")
    done = require(search.completed, "no trial of the search has completed yet")
    trials = done.rename(columns={"objective_1": "first", "objective_2": "second"})
    return SearchPareto(search.objectives, trials.assign(on_front=find_front(search)))


@styled()
def draw_search_pareto(data: SearchPareto) -> Figure:
    """The first objective upwards, the second to the right."""
    figure = new_figure(8.0, 4.8, "Pareto front")
    axes = figure.subplots()
    front = data.trials[data.trials["on_front"]].sort_values("second")
    axes.plot(front["second"], front["first"], color=BEST, linewidth=1.4, drawstyle="steps-post", zorder=1.5)
    for row in data.trials.to_dict("records"):
        told = f"trial {row['number']}: {format_value(row['first'])}, {format_power(row['second'])}"
        plot(axes, row["second"], row["first"], told, **(_ON_FRONT if row["on_front"] else _BEATEN))
        if row["enqueued"]:
            axes.plot(row["second"], row["first"], **ENQUEUED)
    for which, objective, column in zip("yx", data.objectives, ("first", "second"), strict=True):
        use_objective_axis(axes, objective, which, data.trials[column])
    looks = {"on the front": _ON_FRONT, "beaten by one of them": _BEATEN}
    looks |= {TRIED_FIRST: ENQUEUED} if data.trials["enqueued"].any() else {}
    add_legend(figure, [Line2D([], [], label=label, **look) for label, look in looks.items()], len(looks))
    return figure


FIGURE = FigureKind(
    name="search_pareto", section="search", position=20, title="Pareto front",
    caption="Completed trials; on the front are those that no other one beats in one objective without losing in the other.",
    subjects=lambda study: whole_study(study) if len(load_search(study).objective_columns) > 1 else [],
    build=lambda study, subject: build_search_pareto(load_search(study)),
    draw=lambda data, subject: draw_search_pareto(data),
)  # fmt: skip
