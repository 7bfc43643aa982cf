"""Batch size x learning rate: the objective between the completed trials, with every trial and the published points.

Between trials the surface is linear in the logarithms of both; outside of them there is none. Trials that differ in other
fields lie on the same map: it is a projection, and the spread of dots beside each other says how rough it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.tri import Triangulation

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import ENQUEUED, build_scale, status_handles, status_style
from analysis.drawing.selection import require
from analysis.drawing.style import INK, NothingToDraw, format_value, new_figure, set_hover, shown, styled
from analysis.figures.search.parallel import COLORS
from analysis.search.history import Search, load_search
from analysis.search.objectives import Objective
from analysis.search.winners import find_cell

FIELDS = ("batch_size", "learning_rate")


@dataclass(frozen=True)
class SearchContour:
    """`trials`: number, batch_size, learning_rate, value (NaN unless completed), status. `published`: label and the two."""

    objective: Objective
    trials: pd.DataFrame
    published: pd.DataFrame
    batch_ticks: tuple[tuple[float, str], ...]
    higher_is_better: bool

    @property
    def surface(self) -> pd.DataFrame:
        """The mean value at every place where a trial completed, the corners of the surface."""
        done = self.trials.dropna(subset=["value"])
        return done.groupby(list(FIELDS))["value"].mean().reset_index()


def build_search_contour(search: Search) -> SearchContour:
    """All trials with both fields; errors: NothingToDraw where the search is not over both."""
    missing = [name.replace("_", " ") for name in FIELDS if name not in search.description.space]
    if missing:
        raise NothingToDraw(f"the search is not over {' and '.join(missing)}")
    columns = {search.parameter_columns[name]: name for name in FIELDS}
    trials = search.trials.rename(columns={**columns, "objective_1": "value"})
    trials = trials[["number", *FIELDS, "value", "status"]].dropna(subset=list(FIELDS))
    trials = trials.astype(dict.fromkeys(FIELDS, float))
    require(trials.dropna(subset=["value"]), "no trial of the search has completed yet")
    published = [
        {
            "label": _name(search, values),
            **{name: float(values[name]) for name in FIELDS},
        }
        for values in search.description.enqueued
        if all(isinstance(values.get(name), (int, float)) for name in FIELDS)
    ]
    scale = build_scale(search, "batch_size", search.trials.dropna(subset=[search.parameter_columns["batch_size"]]))
    return SearchContour(
        search.objectives[0], trials.reset_index(drop=True),
        pd.DataFrame(published, columns=["label", *FIELDS]), scale.ticks, search.is_better() > 0,
    )  # fmt: skip


@styled()
def draw_search_contour(data: SearchContour) -> Figure:
    """The surface, a dot per trial, a star per cell of the study."""
    figure = new_figure(8.0, 5.2, f"{data.objective.title.capitalize()} by batch size and learning rate")
    axes = figure.subplots()
    surface = data.surface
    percent = data.objective.kind == "accuracy"
    colors = COLORS if data.higher_is_better else f"{COLORS}_r"
    x, y = np.log2(surface["batch_size"].to_numpy()), np.log10(surface["learning_rate"].to_numpy())
    triangles = _triangulate(x, y)
    if triangles is not None:
        filled = axes.tricontourf(triangles, surface["value"].to_numpy(), levels=12, cmap=colors)
        bar = figure.colorbar(filled, ax=axes, pad=0.02)
        bar.set_label(f"{data.objective.title}{' (%)' if percent else ''}")
        scale = 100 if percent else 1
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:.4g}"))
    for row in data.trials.to_dict("records"):
        style = status_style(str(row["status"])) | {"markeredgewidth": 0.9}
        if row["status"] == "completed":
            style |= {"markeredgecolor": "white"}
        (mark,) = axes.plot(np.log2(row["batch_size"]), np.log10(row["learning_rate"]), **style)
        value = format_value(float(row["value"])) if np.isfinite(row["value"]) else row["status"]
        set_hover(mark, f"trial {row['number']}: {value}")
    for row in data.published.to_dict("records"):
        place = (np.log2(row["batch_size"]), np.log10(row["learning_rate"]))
        axes.plot(*place, linestyle="none", **(ENQUEUED | {"markersize": 15, "markerfacecolor": "white", "color": INK}))
        axes.annotate(
            shown(row["label"], 24), place, xytext=(9, 7), textcoords="offset points", fontsize=8.5,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip
    _label_axes(axes, data)
    handles = status_handles(list(data.trials["status"].unique()), enqueued=len(data.published) > 0)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _name(search: Search, values: Mapping[str, Any]) -> str:
    cell = find_cell(search, values)
    return cell.label if cell is not None else f"{values['batch_size']}, {values['learning_rate']:g}"


def _triangulate(x: np.ndarray, y: np.ndarray) -> Triangulation | None:
    """None where the places lie on a line."""
    if len(x) < 3 or np.linalg.matrix_rank(np.column_stack([x - x[0], y - y[0]]), tol=1e-9) < 2:
        return None
    try:
        return Triangulation(x, y)
    except RuntimeError:  # too near to a line
        return None


def _label_axes(axes: Axes, data: SearchContour) -> None:
    """Both axes hold logarithms, so that the surface is linear between dots; their labels are the values."""
    sizes = data.batch_ticks or tuple((2.0**p, f"{2**p}") for p in range(17))
    places = np.log2(np.concatenate([data.trials["batch_size"], data.published["batch_size"]]))
    low, high = places.min() - 0.25, places.max() + 0.25
    axes.set_xlim(low, high)
    shown_sizes = [(np.log2(size), text) for size, text in sizes if low <= np.log2(size) <= high]
    axes.set_xticks([place for place, _ in shown_sizes], [text for _, text in shown_sizes])
    axes.set_xlabel("batch size")
    places = np.log10(np.concatenate([data.trials["learning_rate"], data.published["learning_rate"]]))
    bottom, top = places.min() - 0.08, places.max() + 0.12
    axes.set_ylim(bottom, top)
    rates = [m * 10.0**p for p in range(-9, 4) for m in ((1, 2, 5) if top - bottom < 3 else (1,))]
    rates = [rate for rate in rates if bottom <= np.log10(rate) <= top]
    axes.set_yticks([float(np.log10(rate)) for rate in rates], [format_value(rate) for rate in rates])
    axes.set_ylabel("learning rate")


FIGURE = FigureKind(
    name="search_contour", section="search", position=40, title="Batch size and learning rate",
    caption="Dots are trials; the surface runs straight between the completed ones and ends with them. Trials that differ in other "
    "fields lie on the same map, so neighbours may disagree.",
    build=lambda study, subject: build_search_contour(load_search(study)),
    draw=lambda data, subject: draw_search_contour(data),
)  # fmt: skip
