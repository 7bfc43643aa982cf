"""Gradient noise scale over epochs, beside the batch size of the cell (McCandlish et al. 2018).

The line of a cell is the mean over seeds of tr(S) over the mean over seeds of |G|^2: both estimates are unbiased, their
quotient in a single measurement is not, and |G|^2 may even come out negative. Single trials are faint dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing import style
from analysis.drawing.chart import Chart, Panel
from analysis.drawing.declaration import FigureKind
from analysis.drawing.progress_axes import EPOCH_AXES, add_epoch_axes
from analysis.drawing.selection import Labels, ShownCell, cell_of_trial, rows_by_cell, shown_cells
from analysis.records.frames import Study

_BATCH_SIZE = (0, (1, 1.5))  # dashes


@dataclass(frozen=True)
class NoiseScales:
    """`cells` has columns cell, epoch, noise_scale, num (seeds); `trials` cell, epoch, noise_scale of each trial; in images."""

    cells: pd.DataFrame
    trials: pd.DataFrame
    batch_sizes: dict[int, int]
    labels: Labels


def build_noise_scales(epochs: pd.DataFrame, cells: Sequence[ShownCell]) -> NoiseScales:
    """The noise scale of every cell and trial where it is defined and positive."""
    frame = epochs.assign(cell=epochs["trial_id"].astype(object).map(cell_of_trial(cells)))
    frame = frame.dropna(subset=["cell"]).replace([np.inf, -np.inf], np.nan).astype({"cell": int})
    parts = ["gradient_covariance_trace", "gradient_l2_squared_unbiased"]
    grouped = frame.dropna(subset=parts).groupby(["cell", "epoch"])[parts]
    means = grouped.mean()
    noise = (means[parts[0]] / means[parts[1]]).to_frame("noise_scale").assign(num=grouped.size()).reset_index()
    noise = noise[(noise["noise_scale"] > 0) & np.isfinite(noise["noise_scale"])].reset_index(drop=True)
    single = frame[frame["noise_scale"] > 0][["cell", "epoch", "noise_scale"]].reset_index(drop=True)
    labels = rows_by_cell(pd.concat([noise, single]), cells, "the gradient noise scale was not measured").labels
    batch_sizes = {cell.index: int(cell.config["batch_size"]) for cell in cells if cell.index in dict(labels)}
    return NoiseScales(noise, single, batch_sizes, labels)


@style.styled()
def draw_noise_scales(data: NoiseScales) -> Figure:
    """A line per cell; a thin horizontal line is its batch size."""
    batch_size = Line2D([], [], color=style.MUTED, linestyle=_BATCH_SIZE, label="its batch size")
    figure = style.new_cell_figure(9, 4.4, "Gradient noise scale", data.labels, [batch_size])
    axes = figure.subplots()
    for index, label in data.labels:
        color = style.cell_style(index)["color"]
        dots = data.trials[data.trials["cell"] == index]
        axes.plot(dots["epoch"], dots["noise_scale"], linestyle="none", marker=".", color=color, alpha=0.3)
        own = data.cells[data.cells["cell"] == index]
        last = style.format_value(float(own["noise_scale"].iloc[-1])) if len(own) else ""
        style.plot_cell(axes, own, "epoch", "noise_scale", index, f"{label}: {last} images at the end")
        batch = axes.axhline(data.batch_sizes[index], color=color, linewidth=0.9, linestyle=_BATCH_SIZE)
        style.set_hover(batch, f"{label}: batch size {data.batch_sizes[index]}")
    style.use_log_axis(axes, "y")
    style.use_epoch_axis(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel("tr(S) / |G|² (images)")
    return figure


def chart_noise_scales(data: NoiseScales) -> Chart:
    """The lines of the cells."""
    rows = data.cells.rename(columns={"noise_scale": "mean"}).assign(panel="noise_scale", sd=np.nan)
    axes = {name: title for name, title in EPOCH_AXES.items() if name in rows}
    panel = Panel("noise_scale", "tr(S) / |G|² (images)", log=True)
    return Chart("Gradient noise scale", (panel,), data.labels, axes, rows)


def _build(study: Study) -> NoiseScales:
    data = build_noise_scales(study.epochs, shown_cells(study))
    return replace(data, cells=add_epoch_axes(study, data.cells))


FIGURE = FigureKind(
    name="noise_scale", section="dynamics", position=30, title="Gradient noise scale",
    caption="tr(S) / |G|² (McCandlish et al. 2018): the batch size above which a larger batch buys little. Lines are the ratio of "
    "the means over seeds.",
    picture_caption="Dots are single trials.",
    build=lambda study, subject: _build(study), draw=lambda data, subject: draw_noise_scales(data),
    chart=lambda data, subject: chart_noise_scales(data),
)  # fmt: skip
