"""The same gradient and update curves against five measures of how far training has come.

Cells with other batch sizes and learning rates are not at the same place after the same number of steps. The curves are
mean |g| and the update-to-weight ratio, both means over all tensors and over the cell's trials, at every measured step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind
from analysis.drawing.layer_records import LayerSummary, load_layer_summary
from analysis.drawing.progress_axes import FLOPS_TITLE, cumulative_learning_rate, load_flops_per_image
from analysis.drawing.selection import CellRows, ShownCell, rows_by_cell, shown_cells
from analysis.drawing.style import new_cell_figure, plot_cell, styled, use_log_axis, use_plain_axis
from analysis.records.phases import first_learning_rate
from trainable.config import model_name

AXES = {
    "step": "step",
    "epochs": "epochs",
    "images": "images seen",
    "flops": FLOPS_TITLE,
    "cumulative_learning_rate": "sum of learning rates",
}
_CURVES = {"gradient_mean_abs": "mean |g|", "update_ratio": "update ratio"}
_MAX_POINTS = 60


def build_axes_views(
    summary: LayerSummary, epochs: pd.DataFrame, cells: Sequence[ShownCell], flops_per_image: Mapping[str, int]
) -> CellRows:
    """Rows with columns cell, those of AXES (progress after the step), gradient_mean_abs and update_ratio.

    `flops_per_image` is by network; FLOPs are NaN for one that is not in it.
    """
    parts = []
    for cell in cells:
        own = summary.by_step[summary.by_step["cell"] == cell.index]
        curve = own.groupby("step")[list(_CURVES)].mean().dropna(how="all").reset_index()
        boundaries = epochs[epochs["trial_id"].isin(cell.trial_ids)].groupby("epoch")[["step", "learning_rate"]].first()
        if curve.empty or boundaries.empty:
            continue
        taken = curve["step"] + 1
        curve["images"] = taken * int(cell.config["batch_size"])
        curve["epochs"] = taken / (float(boundaries["step"].iloc[0]) / int(boundaries.index[0]))
        curve["flops"] = curve["images"] * flops_per_image.get(model_name(cell.config), np.nan)
        curve["cumulative_learning_rate"] = cumulative_learning_rate(
            taken.to_numpy(), boundaries["step"].to_numpy(), first_learning_rate(cell.config),
            boundaries["learning_rate"].to_numpy(),
        )  # fmt: skip
        parts.append(curve.assign(cell=cell.index))
    curves = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return rows_by_cell(curves.reindex(columns=["cell", *AXES, *_CURVES]), cells, "no layers were measured")


@styled()
def draw_axes_views(data: CellRows) -> Figure:
    """A row per measure of progress, mean |g| at the left, update ratio at the right."""
    figure = new_cell_figure(10.5, 11.5, "Gradients and updates against five axes", data.labels)
    grid = figure.subplots(len(AXES), len(_CURVES), squeeze=False)
    for row, (axis, axis_label) in zip(grid, AXES.items(), strict=True):
        for axes, (curve, curve_label) in zip(row, _CURVES.items(), strict=True):
            for index, label in data.labels:
                own = data.of(index)
                own = own[own[curve] > 0].dropna(subset=[axis])
                own = own.iloc[:: max(1, math.ceil(len(own) / _MAX_POINTS))]
                plot_cell(axes, own, axis, curve, index, label)
            use_log_axis(axes, "y")
            use_plain_axis(axes, "x", bins=5)
            axes.set_xlabel(axis_label)
            axes.set_ylabel(curve_label)
    return figure


FIGURE = FigureKind(
    name="axes_views", section="dynamics", position=40, title="Gradients and updates against five axes",
    caption="The same curves against steps, epochs, images seen, FLOP spent and the sum of learning rates: means over all tensors "
    "and seeds.",
    build=lambda study, subject: build_axes_views(
        load_layer_summary(study), study.epochs, shown_cells(study), load_flops_per_image(study)
    ),
    draw=lambda data, subject: draw_axes_views(data),
)  # fmt: skip
