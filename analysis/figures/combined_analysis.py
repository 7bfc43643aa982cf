"""Combined analysis of one trial at one epoch: mean gradient by layer beside mean weight change by layer.

As published: gradient is the mean of mean |g| over all measured steps since the start, change is mean |w - w0| at the epoch's
last measured step; both on logarithmic axes. Works on the layer records of one trial, from a file or from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, each_first_trial
from analysis.drawing.layer_records import load_trial_layers
from analysis.drawing.selection import choose_layers, require


@dataclass(frozen=True)
class CombinedAnalysis:
    """`rows` has columns layer, group, gradient, change, in the order of the network."""

    rows: pd.DataFrame
    epoch: int


def build_combined_analysis(layers: pd.DataFrame, epoch: int | None = None) -> CombinedAnalysis:
    """Gradient and weight change of every layer at `epoch` (default: the last one measured)."""
    frame = require(layers, "no layers were measured").replace([np.inf, -np.inf], np.nan)
    frame = frame[frame["layer"].isin(choose_layers(frame))]
    chosen = int(frame["epoch"].max()) if epoch is None else epoch
    own = require(frame[frame["epoch"] == chosen], f"no layers were measured at epoch {chosen}")
    so_far = frame[frame["epoch"] <= chosen]
    gradient = so_far.groupby("layer", observed=True, sort=False)["gradient_mean_abs"].mean()
    last = own[own["step"] == own["step"].max()].set_index("layer")
    rows = pd.DataFrame({
        "layer": [str(name) for name in last.index],
        "group": last["group"].astype(str).to_numpy(),
        "gradient": gradient.reindex(last.index).to_numpy(dtype=float),
        "change": last["displacement_mean_abs"].to_numpy(dtype=float),
    })  # fmt: skip
    require(rows.dropna(subset=["gradient", "change"], how="all"), f"no finite values at epoch {chosen}")
    return CombinedAnalysis(rows, chosen)


@style.styled()
def draw_combined_analysis(data: CombinedAnalysis, title: str) -> Figure:
    """Two bars per layer, gradient at the left, change at the right, both on logarithmic axes."""
    figure = style.new_figure(10.5, 1.4 + 0.155 * len(data.rows), title)
    left, right = figure.subplots(1, 2)
    names = list(data.rows["layer"])
    of_group = style.group_colors(data.rows["group"])
    colors = [of_group[group] for group in data.rows["group"]]
    gradients, changes = data.rows["gradient"].tolist(), data.rows["change"].tolist()
    hovers = [
        f"{layer}: mean |g| {style.format_value(gradient)}, change {style.format_value(change)}"
        for layer, gradient, change in zip(names, gradients, changes, strict=True)
    ]
    for axes, values in ((left, gradients), (right, changes)):
        lowest = _floor(values)
        axes.set_xscale("log")
        style.draw_rows(axes, values, colors, hovers, start=lowest)
        axes.set_xlim(left=lowest)
        style.use_log_axis(axes, "x")
    style.name_rows(left, names)
    style.name_rows(right, names, labels=False)
    left.set_title(f"Mean gradient |g|, epochs 1 to {data.epoch}")
    right.set_title(f"Mean weight change |w − w₀|, epoch {data.epoch}")
    style.add_legend(figure, style.group_handles(data.rows["group"]), 6)
    return figure


def _floor(values: Sequence[float]) -> float:
    """The power of ten at or below the smallest positive value."""
    positive = [value for value in values if value > 0]
    return float(10.0 ** np.floor(np.log10(min(positive)) - 1e-9)) if positive else 1e-6


FIGURE = FigureKind(
    name="combined_analysis", section="dynamics", position=80, title="Combined analysis",
    caption=lambda study, subject: f"Seed {subject.seed}: mean gradient of every tensor over all measured steps so far, and its "
    "mean weight change at the last epoch.",
    subjects=each_first_trial, build=lambda study, subject: build_combined_analysis(load_trial_layers(study, subject.own_cell)),
    build_at_epoch=build_combined_analysis,
    draw=lambda data, subject: draw_combined_analysis(data, f"Combined analysis, {subject.about}"),
)  # fmt: skip
