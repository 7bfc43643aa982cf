"""Pareto front: two objectives of the completed trials; those on the front have no other that is better in both."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.drawing.declaration import FigureKind, whole_study
from analysis.drawing.search_marks import BEST, ENQUEUED, TRIED_FIRST, status_style
from analysis.drawing.selection import require
from analysis.drawing.style import (
    NothingToDraw,
    format_power,
    format_value,
    new_figure,
    set_hover,
    styled,
    use_log_axis,
    use_plain_axis,
)
from analysis.search.history import Search, find_front, load_search
from analysis.search.objectives import Objective


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
    trials = pd.DataFrame({
        "number": done["number"], "first": done["objective_1"].astype(float), "second": done["objective_2"].astype(float),
        "on_front": find_front(search), "enqueued": done["source"] == "enqueued",
    })  # fmt: skip
    return SearchPareto(search.objectives, trials.reset_index(drop=True))


@styled()
def draw_search_pareto(data: SearchPareto) -> Figure:
    """The first objective upwards, the second to the right."""
    figure = new_figure(8.0, 4.8, "Pareto front")
    axes = figure.subplots()
    front = data.trials[data.trials["on_front"]].sort_values("second")
    axes.plot(front["second"], front["first"], color=BEST, linewidth=1.4, drawstyle="steps-post", zorder=1.5)
    for row in data.trials.to_dict("records"):
        style = status_style("completed") | ({"color": BEST} if row["on_front"] else {"markerfacecolor": "none"})
        (mark,) = axes.plot(row["second"], row["first"], **style)
        set_hover(mark, f"trial {row['number']}: {format_value(row['first'])}, {format_power(row['second'])}")
        if row["enqueued"]:
            axes.plot(row["second"], row["first"], linestyle="none", **ENQUEUED)
    for which, place, column in (("y", 0, "first"), ("x", 1, "second")):
        _label(axes, which, data.objectives[place], data.trials[column])
    handles = [
        Line2D([], [], **(status_style("completed") | {"color": BEST}), label="on the front"),
        Line2D([], [], **(status_style("completed") | {"markerfacecolor": "none"}), label="beaten by one of them"),
    ]  # fmt: skip
    if data.trials["enqueued"].any():
        handles.append(Line2D([], [], linestyle="none", label=TRIED_FIRST, **ENQUEUED))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _label(axes: Axes, which: str, objective: Objective, values: pd.Series) -> None:
    title = objective.title
    is_wide = bool((values > 0).all()) and values.max() > 20 * values.min()
    if objective.kind == "accuracy":
        getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
        title += " (%)"
    elif is_wide:
        use_log_axis(axes, which)
    else:
        use_plain_axis(axes, which)
    getattr(axes, f"set_{which}label")(title)


FIGURE = FigureKind(
    name="search_pareto", section="search", position=20, title="Pareto front",
    caption="Completed trials; on the front are those that no other one beats in one objective without losing in the other.",
    subjects=lambda study: whole_study(study) if len(load_search(study).objective_columns) > 1 else [],
    build=lambda study, subject: build_search_pareto(load_search(study)),
    draw=lambda data, subject: draw_search_pareto(data),
)  # fmt: skip
