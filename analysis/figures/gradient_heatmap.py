"""Gradient flow over time: mean |g| of every layer at every epoch, as a picture of layer by epoch.

A value is the mean over the cell's trials and the epoch's measured steps. Cells share one colour scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.drawing.declaration import FigureKind, each_cell
from analysis.drawing.layer_records import LayerSummary, load_layer_summary
from analysis.drawing.selection import choose_layers, require
from analysis.drawing.style import format_power, name_rows, new_figure, styled, use_epoch_axis


@dataclass(frozen=True)
class GradientHeatmap:
    """`values` (layers, epochs) of mean |g|, NaN where nothing was measured; `limits` of the shared colour scale."""

    values: np.ndarray
    layers: tuple[str, ...]
    epochs: tuple[int, ...]
    limits: tuple[float, float]


def build_gradient_heatmap(summary: LayerSummary, cell: int) -> GradientHeatmap:
    """The heat map of one cell; the limits are those of all cells."""
    measured = summary.by_layer[summary.by_layer["gradient_mean_abs"] > 0]
    own = require(measured[measured["cell"] == cell], "no gradients were measured")
    square = own.pivot_table(index="layer", columns="epoch", values="gradient_mean_abs", observed=True)
    kinds = own.drop_duplicates("layer").set_index("layer")["kind"]
    names = choose_layers(kinds.reindex([name for name in summary.layers if name in square.index]).reset_index())
    everything = measured["gradient_mean_abs"]
    return GradientHeatmap(
        square.loc[names].to_numpy(dtype=float), tuple(names), tuple(int(epoch) for epoch in square.columns),
        (float(everything.min()), float(everything.max())),
    )  # fmt: skip


@styled()
def draw_gradient_heatmap(data: GradientHeatmap, title: str) -> Figure:
    """One row per layer, one column per epoch, dark for small."""
    figure = new_figure(min(max(4.6 + 0.16 * len(data.epochs), 6.5), 12), 1.4 + 0.15 * len(data.layers), title)
    axes = figure.subplots()
    low, high = data.limits
    norm = LogNorm(low, high if high > low else low * 10)
    image = axes.imshow(
        data.values, aspect="auto", cmap="viridis", norm=norm, interpolation="nearest",
        extent=(data.epochs[0] - 0.5, data.epochs[-1] + 0.5, len(data.layers) - 0.5, -0.5),
    )  # fmt: skip
    name_rows(axes, data.layers)
    axes.set_ylim(len(data.layers) - 0.5, -0.5)
    axes.grid(False)
    use_epoch_axis(axes)
    axes.set_xlabel("epoch")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("mean |g|")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0), numticks=9))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_power(value)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


FIGURE = FigureKind(
    name="gradient_heatmap", section="dynamics", position=60, title="Gradient flow over time",
    caption="Mean |g| of every tensor and epoch, over measured steps and seeds; all cells share one colour scale.",
    subjects=each_cell,
    build=lambda study, subject: build_gradient_heatmap(load_layer_summary(study), subject.own_cell.index),
    draw=lambda data, subject: draw_gradient_heatmap(data, f"Mean gradient, {subject.about}"),
)  # fmt: skip
