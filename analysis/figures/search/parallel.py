"""Parallel coordinates: a line per completed trial through the values of its fields and its objective.

Lines are coloured by the objective, the best on top; pruned and failed trials are left out, they have no final value.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import TRIED_FIRST, AxisScale, build_scale
from analysis.drawing.selection import require
from analysis.drawing.style import INK, PANEL, format_value, new_figure, set_hover, shown, styled
from analysis.search.history import Search, load_search
from analysis.search.objectives import Objective

COLORS = "viridis"


@dataclass(frozen=True)
class SearchParallel:
    """`trials` has columns number, value, enqueued, the worst first; `scales` the fields, in the order of the study."""

    objective: Objective
    trials: pd.DataFrame
    scales: tuple[AxisScale, ...]
    higher_is_better: bool


def build_search_parallel(search: Search) -> SearchParallel:
    """The completed trials, the best last."""
    done = require(search.completed, "no trial of the search has completed yet")
    better = search.is_better() > 0
    done = done.sort_values("objective_1", ascending=better, kind="stable")
    trials = pd.DataFrame({
        "number": done["number"], "value": done["objective_1"].astype(float), "enqueued": done["source"] == "enqueued"
    })  # fmt: skip
    scales = tuple(build_scale(search, name, done) for name in search.description.space)
    return SearchParallel(search.objectives[0], trials.reset_index(drop=True), scales, better)


@styled()
def draw_search_parallel(data: SearchParallel) -> Figure:
    """Vertical axes side by side, the objective at the right."""
    figure = new_figure(max(7.5, 1.8 * len(data.scales) + 2.5), 4.4, "Parallel coordinates of the completed trials")
    axes = figure.subplots()
    values = data.trials["value"].to_numpy()
    heights = np.column_stack([*(_heights(scale) for scale in data.scales), _spread(values)])
    norm = Normalize(values.min(), values.max() if np.ptp(values) else values.min() + 1)
    colors = mpl.colormaps[COLORS if data.higher_is_better else f"{COLORS}_r"]
    for row, line in zip(data.trials.to_dict("records"), heights, strict=True):
        style = (0, (4, 1.5)) if row["enqueued"] else "-"
        (drawn,) = axes.plot(
            range(len(line)), line, color=colors(0.15 + 0.85 * norm(row["value"])), linewidth=1.4, linestyle=style
        )
        origin = "cell of the study, " if row["enqueued"] else ""
        set_hover(drawn, f"trial {row['number']}: {origin}{format_value(float(row['value']))}")
    for place, scale in enumerate(data.scales):
        _draw_scale(axes, place, _ticks(scale))
    percent = data.objective.kind == "accuracy"
    _draw_scale(axes, len(data.scales), _value_ticks(values, percent=percent))
    unit = " (%)" if percent else ""
    titles = [*(scale.title for scale in data.scales), data.objective.title + unit]
    axes.set_xticks(range(len(titles)), [shown(title, 30) for title in titles])
    axes.set_xlim(-0.35, len(data.scales) + 0.35)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=8.5)
    if data.trials["enqueued"].any():
        figure.supxlabel(f"dashed: {TRIED_FIRST}", fontsize=8.5)
    return figure


def _draw_scale(axes: Axes, place: int, ticks: list[tuple[float, str]]) -> None:
    axes.axvline(place, ymin=0.05, ymax=0.95, color=INK, linewidth=0.8)
    for height, text in ticks:
        axes.plot([place - 0.015, place], [height, height], color=INK, linewidth=0.8)
        axes.text(
            place - 0.025, height, text, ha="right", va="center", fontsize=7.5,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": PANEL, "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def _heights(scale: AxisScale) -> np.ndarray:
    return _spread(np.log10(scale.places) if scale.kind == "log" else scale.places)


def _spread(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; in the middle where all are the same."""
    width = np.ptp(values)
    return np.asarray((values - values.min()) / width if width else np.full(len(values), 0.5))


def _ticks(scale: AxisScale) -> list[tuple[float, str]]:
    """Names of the choices; of a range its ends and three between."""
    places = np.log10(scale.places) if scale.kind == "log" else scale.places
    low, width = places.min(), np.ptp(places)
    if scale.ticks:
        known = [(np.log10(place) if scale.kind == "log" else place, text) for place, text in scale.ticks]
        return [((place - low) / width if width else 0.5, text) for place, text in known]
    if not width:
        return [(0.5, format_value(float(scale.places[0])))]
    shares = np.linspace(0, 1, 5)
    if scale.kind == "linear" and np.array_equal(places, places.round()):  # whole numbers have whole ticks
        shares = (np.unique((low + shares * width).round()) - low) / width
    values = 10 ** (low + shares * width) if scale.kind == "log" else low + shares * width
    digits = 2 if width > 0.2 * np.abs(places).max() else 4  # enough that no two are written alike
    return [(float(share), f"{value:.{digits}g}") for share, value in zip(shares, values, strict=True)]


def _value_ticks(values: np.ndarray, *, percent: bool) -> list[tuple[float, str]]:
    scale = 100 if percent else 1
    if not np.ptp(values):
        return [(0.5, f"{scale * values[0]:.4g}")]
    return [(float(s), f"{scale * (values.min() + s * np.ptp(values)):.3g}") for s in np.linspace(0, 1, 5)]


FIGURE = FigureKind(
    name="search_parallel", section="search", position=60, title="Parallel coordinates",
    caption="A line per completed trial; bright lines are the better ones.",
    build=lambda study, subject: build_search_parallel(load_search(study)),
    draw=lambda data, subject: draw_search_parallel(data),
)  # fmt: skip
