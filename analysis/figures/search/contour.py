"""Batch size x learning rate: the objective between the completed trials, with every trial and the published points.

Between trials the surface is linear in the logarithms of both; outside of them there is none. Trials that differ in other
fields lie on the same map: it is a projection, and the spread of dots beside each other says how rough it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.tri import Triangulation

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import ENQUEUED, add_status_legend, status_style, title_with_unit
from analysis.drawing.selection import require
from analysis.drawing.style import INK, NothingToDraw, format_value, new_figure, plot, shown, styled
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
    trials = search.points.assign(value=search.points["objective_1"])
    trials = trials.rename(columns={search.parameter_columns[name]: name for name in FIELDS})
    trials = trials.dropna(subset=list(FIELDS)).astype(dict.fromkeys(FIELDS, float))
    require(trials.dropna(subset=["value"]), "no trial of the search has completed yet")
    published = [
        {"label": _name(search, values), **{name: float(values[name]) for name in FIELDS}}
        for values in search.description.enqueued
        if all(isinstance(values.get(name), (int, float)) for name in FIELDS)
    ]
    places = pd.DataFrame(published, columns=["label", *FIELDS])
    return SearchContour(search.objectives[0], trials, places, search.is_better() > 0)


@styled()
def draw_search_contour(data: SearchContour) -> Figure:
    """The surface, a dot per trial, a star per cell of the study."""
    figure = new_figure(8.0, 5.2, f"{data.objective.title.capitalize()} by batch size and learning rate")
    axes = figure.subplots()
    surface = data.surface
    triangles = _triangulate(*_place(surface))
    if triangles is not None:
        colors = COLORS if data.higher_is_better else f"{COLORS}_r"
        filled = axes.tricontourf(triangles, surface["value"].to_numpy(), levels=12, cmap=colors)
        bar = figure.colorbar(filled, ax=axes, pad=0.02)
        bar.set_label(title_with_unit(data.objective))
        scale = 100 if data.objective.kind == "accuracy" else 1
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:.4g}"))
    for row, x, y in zip(data.trials.to_dict("records"), *_place(data.trials), strict=True):
        look = status_style(str(row["status"])) | {"markeredgewidth": 0.9}
        look |= {"markeredgecolor": "white"} if row["status"] == "completed" else {}
        value = format_value(float(row["value"])) if np.isfinite(row["value"]) else row["status"]
        plot(axes, x, y, f"trial {row['number']}: {value}", **look)
    for label, x, y in zip(data.published["label"], *_place(data.published), strict=True):
        axes.plot(x, y, **(ENQUEUED | {"markersize": 15, "markerfacecolor": "white", "color": INK}))
        axes.annotate(
            shown(label, 24), (x, y), xytext=(9, 7), textcoords="offset points", fontsize=8.5,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip
    _label_axes(axes, data)
    add_status_legend(figure, data.trials.assign(enqueued=len(data.published) > 0))
    return figure


def _place(rows: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where rows with both fields lie: both axes hold logarithms, so that the surface is linear between dots."""
    return np.log2(rows["batch_size"].to_numpy(float)), np.log10(rows["learning_rate"].to_numpy(float))


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
    """Labels are the values; batch sizes of a range, of which there can be many, are named at powers of two."""
    places = pd.concat([data.trials, data.published])
    sizes, rates = _place(places)
    axes.set_xlim(sizes.min() - 0.25, sizes.max() + 0.25)
    tried = np.unique(places["batch_size"])
    named = tried if len(tried) <= 8 else 2.0 ** np.arange(np.ceil(sizes.min()), sizes.max() + 0.25)
    axes.set_xticks(np.log2(named).tolist(), [format_value(float(size)) for size in named])
    axes.set_xlabel("batch size")
    bottom, top = rates.min() - 0.08, rates.max() + 0.12
    axes.set_ylim(bottom, top)
    candidates = [m * 10.0**p for p in range(-9, 4) for m in ((1, 2, 5) if top - bottom < 3 else (1,))]
    shown_rates = [rate for rate in candidates if bottom <= np.log10(rate) <= top]
    axes.set_yticks(np.log10(shown_rates).tolist(), [format_value(rate) for rate in shown_rates])
    axes.set_ylabel("learning rate")


FIGURE = FigureKind(
    name="search_contour", section="search", position=40, title="Batch size and learning rate",
    caption="Dots are trials; the surface runs straight between the completed ones and ends with them. Trials that differ in other "
    "fields lie on the same map, so neighbours may disagree.",
    build=lambda study, subject: build_search_contour(load_search(study)),
    draw=lambda data, subject: draw_search_contour(data),
)  # fmt: skip
