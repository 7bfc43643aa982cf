"""Weight updates of one trial, the published four panels over all layers.

Mean change over time, current change per layer, mean |w| over time and standard deviation over time, where change is
mean |w - w0|, the distance from the initial weights, as published. Works on the layer records of one trial, from a file
or from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, each_first_trial
from analysis.drawing.layer_records import load_trial_layers
from analysis.drawing.selection import choose_layers, require

PANELS = {
    "displacement_mean_abs": "Mean change |w − w₀| over time",
    "weight_mean_abs": "Mean |w| over time",
    "weight_std": "Standard deviation of w over time",
}
_NORM: Any = (0, (1, 1))
_DASHES: dict[str, Any] = {
    "conv": "-", "bn": _NORM, "ln": _NORM, "gn": _NORM, "linear": (0, (4, 1.5)), "attention": (0, (6, 1, 1, 1)),
    "embedding": (0, (2, 2)),
}  # fmt: skip
_KIND_NAMES = {
    "conv": "convolution", "bn": "batch norm", "ln": "layer norm", "gn": "group norm", "linear": "linear",
    "attention": "attention", "embedding": "embedding",
}  # fmt: skip
_MAX_MOMENTS = 50


@dataclass(frozen=True)
class WeightUpdates:
    """Layer records: those of `over_time` with the columns of PANELS, `current` of the last step with the column change."""

    over_time: pd.DataFrame
    current: pd.DataFrame
    epoch: int
    step: int


def build_weight_updates(layers: pd.DataFrame, epoch: int | None = None) -> WeightUpdates:
    """The records up to the end of `epoch` (default: the last); "current" is the last measured step of that time.

    More than 50 measured steps are thinned evenly to 50, the last one kept.
    """
    frame = layers if epoch is None else layers[layers["epoch"] <= epoch]
    frame = frame.replace([np.inf, -np.inf], np.nan).dropna(subset=["displacement_mean_abs"])
    frame = require(frame, "no weights were measured").astype({"layer": str, "group": str, "kind": str})
    frame = frame[frame["layer"].isin(choose_layers(frame))]
    steps = np.sort(frame["step"].unique())
    last = int(steps[-1])
    kept = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MAX_MOMENTS)).round().astype(int))]
    current = frame[frame["step"] == last].rename(columns={"displacement_mean_abs": "change"})
    return WeightUpdates(frame[frame["step"].isin(kept)], current, int(current["epoch"].iloc[0]), last)


@style.styled()
def draw_weight_updates(data: WeightUpdates, title: str) -> Figure:
    """Three panels over time at the left, the current change of every layer at the right."""
    figure = style.new_figure(12, max(1.4 + 0.155 * len(data.current), 7), title)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.25, 1))
    for row, (column, heading) in enumerate(PANELS.items()):
        axes = figure.add_subplot(grid[row, 0])
        _draw_over_time(axes, data.over_time, column)
        axes.set_title(heading)
        if row == len(PANELS) - 1:
            axes.set_xlabel("step")
    _draw_current(figure.add_subplot(grid[:, 1]), data)
    kinds = [kind for kind in _DASHES if kind in set(data.over_time["kind"])]
    dashes = [Line2D([], [], color=style.INK, linestyle=_DASHES[kind], label=_KIND_NAMES[kind]) for kind in kinds]
    style.add_legend(figure, [*style.group_handles(data.over_time["group"]), *dashes], 9)
    return figure


def _draw_over_time(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    logarithmic = column == "displacement_mean_abs" and bool((rows[column] > 0).any())
    if logarithmic:
        rows = rows[rows[column] > 0]
    colors = style.group_colors(rows["group"])
    for (layer, group, kind), own in rows.groupby(["layer", "group", "kind"], sort=False):
        look: dict[str, Any] = {"color": colors[str(group)], "linestyle": _DASHES.get(str(kind), "-")}
        look |= {"marker": "o", "markersize": 2.5} if len(own) == 1 else {}
        told = f"{layer}: {style.format_value(float(own[column].iloc[-1]))}"
        style.plot(axes, own["step"], own[column], told, linewidth=1.0, alpha=0.85, **look)
    if logarithmic:
        style.use_log_axis(axes, "y")
    else:
        style.use_plain_axis(axes, "y")
    style.use_plain_axis(axes, "x")


def _draw_current(axes: Axes, data: WeightUpdates) -> None:
    names, changes = list(data.current["layer"]), data.current["change"].tolist()
    hovers = [f"{layer}: {style.format_value(change)}" for layer, change in zip(names, changes, strict=True)]
    colors = style.group_colors(data.current["group"])
    style.draw_rows(axes, changes, [colors[group] for group in data.current["group"]], hovers)
    style.name_rows(axes, names)
    axes.set_title(f"Change |w − w₀| per layer, epoch {data.epoch}, step {data.step}")
    axes.set_xlabel("mean |w − w₀|")
    style.use_plain_axis(axes, "x", bins=5)


FIGURE = FigureKind(
    name="weight_updates", section="dynamics", position=70, title="Weight updates",
    caption=lambda study, subject: f"Seed {subject.seed}: change is mean |w − w₀|, the distance from the initial weights, as published.",
    subjects=each_first_trial, build=lambda study, subject: build_weight_updates(load_trial_layers(study, subject.own_cell)),
    build_at_epoch=build_weight_updates,
    draw=lambda data, subject: draw_weight_updates(data, f"Weight updates, {subject.about}"),
)  # fmt: skip
