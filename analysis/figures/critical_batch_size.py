"""Loss after branches against their batch size, a line per branch point, beside what the noise scale predicts.

The loss is that of the branch less that of the base branch, mean over seeds with its 95 % interval. A ring marks the critical batch
size, the bar through it its interval, an arrow an interval that is open; the triangle at the foot, with a bar of its own, is the
noise scale at the branch point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.comparison.branches import BranchPoint, list_points, tolerance_of
from analysis.comparison.critical_batch import Located, describe
from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, whole_study
from analysis.drawing.style import NothingToDraw
from analysis.records.frames import Study
from analysis.statistics import compare_paired

_MOST_LINES = 12


@dataclass(frozen=True)
class Departures:
    """The branch points by how the learning rate is scaled, and the tolerance in nats."""

    panels: dict[str, list[BranchPoint]]
    tolerance: float


def build_departures(study: Study) -> Departures:
    """Branch points with two batch sizes and more. Errors: NothingToDraw."""
    points = [
        point for point in study.derive(list_points) if len(point.batch_sizes) > 1 and point.base in point.batch_sizes
    ]
    if not points:
        raise NothingToDraw("no branch has ended yet beside the base branch of its branch point")
    panels: dict[str, list[BranchPoint]] = {}
    for point in points:
        panels.setdefault(point.scaling, []).append(point)
    return Departures({scaling: found[:_MOST_LINES] for scaling, found in panels.items()}, tolerance_of(study))


@style.styled()
def draw_departures(data: Departures) -> Figure:
    """A panel for each scaling of the learning rate."""
    several = len({point.label for found in data.panels.values() for point in found}) > 1
    names = list(dict.fromkeys(_name(point, several) for found in data.panels.values() for point in found))
    more = [
        Line2D(
            [], [], color=style.INK, marker="o", fillstyle="none", linestyle="-", label="critical batch size [95 %]"
        ),
        Line2D([], [], color=style.INK, marker="v", linestyle=":", label="noise scale [95 %]"),
    ]
    width = 4.6 * len(data.panels) + 0.8
    figure = style.new_cell_figure(width, 4.4, "Loss after branches, less the base's", list(enumerate(names)), more)
    grid = figure.subplots(1, len(data.panels), squeeze=False, sharey=True)[0]
    ticks = _batch_sizes([point for found in data.panels.values() for point in found])
    for axes, (scaling, points) in zip(grid, data.panels.items(), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
        for point in points:
            _draw_point(axes, point, data.tolerance, style.cell_style(names.index(_name(point, several))))
        axes.axhline(data.tolerance, color=style.MUTED, linewidth=0.9, linestyle="--")
        axes.set_title(_SCALINGS[scaling])
        axes.set_xlabel("batch size (images)")
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()
    low, high = grid[0].get_ylim()
    for axes, points in zip(grid, data.panels.values(), strict=True):
        for row, point in enumerate(points):  # at the foot, one above the other
            color = str(style.cell_style(names.index(_name(point, several)))["color"])
            at = low - (high - low) * 0.05 * (len(points) - row)
            _draw_located(axes, point.predicted, at, color, "v", ":")
    grid[0].set_ylim(low - (high - low) * 0.05 * (max(map(len, data.panels.values())) + 1), high)
    grid[0].set_ylabel("loss less the base's (nats)")
    return figure


_SCALINGS = {
    "linear": "learning rate scaled with the batch size", "sqrt": "learning rate scaled with its square root",
    "none": "learning rate as it is",
}  # fmt: skip


def _batch_sizes(points: list[BranchPoint]) -> list[int]:
    """Those measured, and powers of two as far as the predictions, but not much further."""
    sizes = {size for point in points for size in point.batch_sizes}
    predicted = [point.predicted.value for point in points if math.isfinite(point.predicted.value)]
    low = max(min([*sizes, *predicted]), min(sizes) / 8, 1)
    high = min(max([*sizes, *predicted]), max(sizes) * 8)
    powers = {2**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)}
    return sorted(sizes | {size for size in powers if size < min(sizes) or size > max(sizes)})


def _draw_point(axes: Axes, point: BranchPoint, tolerance: float, look: dict[str, Any]) -> None:
    found = compare_paired(point.losses - point.losses[point.batch_sizes.index(point.base)], 1)
    low, high = (np.where(np.isfinite(end), end, found.mean) for end in (found.low, found.high))
    told = f"{point.label}, epoch {point.epoch}: critical batch size {describe(point.critical, point.batch_sizes[-1])}"
    style.plot(axes, point.batch_sizes, found.mean, told, **look)
    axes.fill_between(point.batch_sizes, low, high, color=look["color"], alpha=0.15, linewidth=0)
    _draw_located(axes, point.critical, tolerance, look["color"], "o", "-")


def _draw_located(axes: Axes, found: Located, y: float, color: str, marker: str, dashes: str) -> None:
    """A batch size and its interval, which an arrow at the edge shows to be open."""
    low, high = found.low, found.high
    edge = axes.get_xlim()[1] / 1.06
    if math.isfinite(low) and not math.isnan(high):
        axes.plot([max(low, 0.1), min(high, edge)], [y, y], color=color, linestyle=dashes, linewidth=2.2, alpha=0.8)
        if high > edge:
            axes.plot([edge], [y], color=color, marker=">", linestyle="none")
    if math.isfinite(found.value):
        fill = "none" if marker == "o" else "full"
        axes.plot([found.value], [y], color=color, marker=marker, fillstyle=fill, markersize=9, linestyle="none")


def _name(point: BranchPoint, several: bool) -> str:
    after = f"after epoch {point.epoch}"
    return f"{point.label}, {after}" if several else after


FIGURE = FigureKind(
    name="critical_batch_size", section="branches", position=20, title="Critical batch size by branching",
    caption="Branches go on from the same state and see the same images in the same order. Lines are means over seeds of the loss less that "
    "of the base branch, bands 95 % intervals; the dashed line is the tolerance. A ring is the critical batch size, where the loss is worse by "
    "more, with its interval; the triangle below is the gradient noise scale there. An arrow is an interval that is open.",
    subjects=lambda study: whole_study(study) if study.info.branch is not None else [],
    build=lambda study, subject: build_departures(study), draw=lambda data, subject: draw_departures(data),
)  # fmt: skip
