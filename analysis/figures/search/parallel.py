"""Parallel coordinates: a line per completed trial through the values of its fields and its objective.

Lines are coloured by the objective, the best on top; pruned and failed trials are left out, they have no final value.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.search_marks import TRIED_FIRST, AxisScale, ScaledTrials, scale_trials, title_with_unit
from analysis.drawing.selection import require
from analysis.drawing.style import INK, PANEL, format_value, new_figure, plot, shown, styled
from analysis.search.history import Search, load_search

COLORS = "viridis"


@dataclass(frozen=True)
class SearchParallel:
    """The completed trials, the worst first."""

    trials: ScaledTrials
    higher_is_better: bool


def build_search_parallel(search: Search) -> SearchParallel:
    """The completed trials, the best last."""
    done = require(search.ranked[::-1], "no trial of the search has completed yet")
    return SearchParallel(scale_trials(search, done), search.is_better() > 0)


@styled()
def draw_search_parallel(data: SearchParallel) -> Figure:
    """Vertical axes side by side, the objective at the right."""
    objective, points = data.trials.objective, data.trials.points
    values = points["value"].to_numpy(dtype=float)
    shares = _spread(values) if np.ptp(values) else np.zeros(len(values))
    shown_values = values * (100 if objective.kind == "accuracy" else 1)
    scales = [*data.trials.scales, AxisScale(title_with_unit(objective), "values", shown_values)]
    figure = new_figure(max(7.5, 1.8 * len(scales) + 0.7), 4.4, "Parallel coordinates of the completed trials")
    axes = figure.subplots()
    colors = mpl.colormaps[COLORS if data.higher_is_better else f"{COLORS}_r"](0.15 + 0.85 * shares)
    heights = np.column_stack([_spread(_linear(scale, scale.places)) for scale in scales])
    for row, line, color in zip(points.to_dict("records"), heights, colors, strict=True):
        origin, dashes = ("cell of the study, ", (0, (4, 1.5))) if row["enqueued"] else ("", "-")
        told = f"trial {row['number']}: {origin}{format_value(float(row['value']))}"
        plot(axes, range(len(line)), line, told, color=color, linewidth=1.4, linestyle=dashes)
    for place, scale in enumerate(scales):
        _draw_scale(axes, place, _ticks(scale))
    axes.set_xticks(range(len(scales)), [shown(scale.title, 30) for scale in scales])
    axes.set_xlim(-0.35, len(scales) - 0.65)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=8.5)
    if points["enqueued"].any():
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


def _linear(scale: AxisScale, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(np.log10(places) if scale.kind == "log" else places, dtype=np.float64)


def _spread(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From 0 to 1; in the middle where all are the same."""
    width = np.ptp(values)
    return np.asarray((values - values.min()) / width if width else np.full(len(values), 0.5))


def _ticks(scale: AxisScale) -> list[tuple[float, str]]:
    """Names of the choices; of a range its ends and three between."""
    places = _linear(scale, scale.places)
    low, width = places.min(), np.ptp(places)
    if scale.ticks:
        known = _linear(scale, [place for place, _ in scale.ticks])
        heights = (known - low) / width if width else np.full(len(known), 0.5)
        return [(float(height), text) for height, (_, text) in zip(heights, scale.ticks, strict=True)]
    if not width:
        return [(0.5, format_value(float(f"{scale.places[0]:.4g}")))]
    shares = np.linspace(0, 1, 5)
    if scale.kind == "linear" and np.array_equal(places, places.round()):  # whole numbers have whole ticks
        shares = (np.unique((low + shares * width).round()) - low) / width
    values = 10 ** (low + shares * width) if scale.kind == "log" else low + shares * width
    narrow = width <= 0.2 * np.abs(places).max()
    digits = 3 if scale.kind == "values" else 4 if narrow else 2  # enough that no two are written alike
    return [(float(share), f"{value:.{digits}g}") for share, value in zip(shares, values, strict=True)]


FIGURE = FigureKind(
    name="search_parallel", section="search", position=60, title="Parallel coordinates",
    caption="A line per completed trial; bright lines are the better ones.",
    build=lambda study, subject: build_search_parallel(load_search(study)),
    draw=lambda data, subject: draw_search_parallel(data),
)  # fmt: skip
