"""Gradient noise scale over epochs, beside the batch size of the cell (McCandlish et al. 2018).

The line of a cell is the mean over seeds of tr(S) over the mean over seeds of |G|^2: both estimates are unbiased, their
quotient in a single measurement is not, and |G|^2 may even come out negative. Single trials are faint dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing.declaration import FigureKind
from analysis.drawing.selection import Records, ShownCell, as_frame, cell_of_trial, shown_cells
from analysis.drawing.style import (
    MUTED,
    NothingToDraw,
    cell_handles,
    cell_style,
    format_value,
    marker_every,
    new_figure,
    set_hover,
    styled,
    use_epoch_axis,
    use_log_axis,
)  # fmt: skip


@dataclass(frozen=True)
class NoiseScales:
    """`cells` has columns cell, epoch, noise_scale; `trials` cell, epoch, noise_scale of each trial; in images."""

    cells: pd.DataFrame
    trials: pd.DataFrame
    batch_sizes: dict[int, int]
    labels: tuple[tuple[int, str], ...]


def build_noise_scales(epochs: Records, cells: Sequence[ShownCell]) -> NoiseScales:
    """The noise scale of every cell and trial where it is defined and positive."""
    frame = as_frame(epochs)
    frame = frame.assign(cell=frame["trial_id"].astype(object).map(cell_of_trial(cells)))
    frame = frame.dropna(subset=["cell"]).replace([np.inf, -np.inf], np.nan).astype({"cell": int})
    parts = ["gradient_covariance_trace", "gradient_l2_squared_unbiased"]
    means = frame.dropna(subset=parts).groupby(["cell", "epoch"])[parts].mean()
    noise = (means[parts[0]] / means[parts[1]]).rename("noise_scale").reset_index()
    noise = noise[(noise["noise_scale"] > 0) & np.isfinite(noise["noise_scale"])].reset_index(drop=True)
    single = frame[frame["noise_scale"] > 0][["cell", "epoch", "noise_scale"]].reset_index(drop=True)
    if noise.empty and single.empty:
        raise NothingToDraw("the gradient noise scale was not measured")
    measured = set(noise["cell"]) | set(single["cell"])
    return NoiseScales(
        noise, single, {cell.index: int(cell.config["batch_size"]) for cell in cells if cell.index in measured},
        tuple((cell.index, cell.label) for cell in cells if cell.index in measured),
    )  # fmt: skip


@styled()
def draw_noise_scales(data: NoiseScales) -> Figure:
    """A line per cell; a thin horizontal line is its batch size."""
    columns = min(3, len(data.labels))
    figure = new_figure(9, 4.4 + 0.2 * -(-len(data.labels) // columns), "Gradient noise scale")
    axes = figure.subplots()
    for index, label in data.labels:
        style = cell_style(index)
        dots = data.trials[data.trials["cell"] == index]
        axes.plot(dots["epoch"], dots["noise_scale"], linestyle="none", marker=".", color=style["color"], alpha=0.3)
        own = data.cells[data.cells["cell"] == index]
        (line,) = axes.plot(own["epoch"], own["noise_scale"], markevery=marker_every(len(own)), **style)
        if len(own):
            set_hover(line, f"{label}: {format_value(float(own['noise_scale'].iloc[-1]))} images at the end")
        batch = axes.axhline(data.batch_sizes[index], color=style["color"], linewidth=0.9, linestyle=(0, (1, 1.5)))
        set_hover(batch, f"{label}: batch size {data.batch_sizes[index]}")
    use_log_axis(axes, "y")
    use_epoch_axis(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel("tr(S) / |G|² (images)")
    handles = [*cell_handles(data.labels), Line2D([], [], color=MUTED, linestyle=(0, (1, 1.5)), label="its batch size")]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


FIGURE = FigureKind(
    name="noise_scale", section="dynamics", position=30, title="Gradient noise scale",
    caption="tr(S) / |G|² (McCandlish et al. 2018): the batch size above which a larger batch buys little. Lines are the ratio of "
    "the means over seeds, dots are single trials.",
    build=lambda study, subject: build_noise_scales(study.epochs, shown_cells(study)),
    draw=lambda data, subject: draw_noise_scales(data),
)  # fmt: skip
