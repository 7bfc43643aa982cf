"""Angular update of every convolution followed by a norm, beside the equilibrium that theory predicts.

The angle between a scale-invariant weight before and after a step of SGD settles at sqrt(2 lr wd / (1 + momentum))
(arXiv 2006.08419), with the learning rate the step used; cells of other optimizers have no prediction. A value is the mean over the cell's trials and the epoch's
measured steps, in radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.comparison.stability import is_plain_sgd
from analysis.drawing import style
from analysis.drawing.declaration import FigureKind
from analysis.drawing.layer_records import LayerSummary, load_layer_summary
from analysis.drawing.panels import new_panels
from analysis.drawing.selection import CellRows, ShownCell, rows_by_cell, shown_cells

_EQUILIBRIUM: dict[str, Any] = {"color": style.INK, "linestyle": (0, (5, 2))}


@dataclass(frozen=True)
class AngularUpdates:
    """`angles` has columns cell, layer, group, epoch, angle; `equilibrium` cell, epoch, angle; both in radians."""

    angles: CellRows
    equilibrium: pd.DataFrame


def build_angular_updates(summary: LayerSummary, steps: pd.DataFrame, cells: Sequence[ShownCell]) -> AngularUpdates:
    """Measured angles per convolution and epoch, and the predicted one from the learning rate in `steps`."""
    angles = summary.by_layer[summary.by_layer["angular_update"] > 0].rename(columns={"angular_update": "angle"})
    angles = angles.astype({"layer": str, "group": str, "angle": float})[["cell", "layer", "group", "epoch", "angle"]]
    measured = rows_by_cell(angles, cells, "no angular update was measured")
    parts = []
    for cell in cells:
        if not is_plain_sgd(cell.config):
            continue
        own = steps[steps["trial_id"].isin(cell.trial_ids)].groupby("epoch")["learning_rate"].mean()
        decay, momentum = float(cell.config["weight_decay"]), float(cell.config["momentum"])
        angle = np.sqrt(2 * own * decay / (1 + momentum))
        parts.append(pd.DataFrame({"cell": cell.index, "epoch": own.index, "angle": angle.to_numpy()}))
    none = pd.DataFrame(columns=["cell", "epoch", "angle"], dtype=float)
    return AngularUpdates(measured, pd.concat(parts, ignore_index=True) if parts else none)


@style.styled()
def draw_angular_updates(data: AngularUpdates) -> Figure:
    """A panel per cell: a line per convolution in the colour of its group, the prediction dashed."""
    figure, panels = new_panels("Angular update of convolutions before a norm", data.angles.labels)
    colors = style.group_colors(data.angles.rows["group"])
    for index, axes in panels:
        for (layer, group), rows in data.angles.of(index).groupby(["layer", "group"], sort=False):
            told = f"{layer}: {style.format_value(float(rows['angle'].iloc[-1]))} rad at the end"
            look: dict[str, Any] = {"color": colors[str(group)], "marker": "o" if len(rows) == 1 else None}
            style.plot(axes, rows["epoch"], rows["angle"], told, linewidth=1.0, alpha=0.85, **look)
        theory = data.equilibrium[(data.equilibrium["cell"] == index) & (data.equilibrium["angle"] > 0)]
        if len(theory):
            told = f"equilibrium: {style.format_value(float(theory['angle'].iloc[0]))} rad at first"
            style.plot(axes, theory["epoch"], theory["angle"], told, linewidth=1.8, **_EQUILIBRIUM)
        style.use_log_axis(axes, "y")
        style.use_epoch_axis(axes)
        axes.set_xlabel("epoch")
    figure.supylabel("angle between w before and after a step (rad)", fontsize=9)
    equilibrium = [Line2D([], [], label="predicted equilibrium", **_EQUILIBRIUM)] if len(data.equilibrium) else []
    style.add_legend(figure, [*style.group_handles(data.angles.rows["group"]), *equilibrium], 7)
    return figure


FIGURE = FigureKind(
    name="angular_update", section="dynamics", position=20, title="Angular update",
    caption="Angle between a convolution's weights before and after a step, beside the equilibrium sqrt(2·lr·wd / (1 + momentum)) "
    "of SGD for the learning rate of the step (arXiv 2006.08419). Mean over measured steps and seeds.",
    build=lambda study, subject: build_angular_updates(load_layer_summary(study), study.steps, shown_cells(study)),
    draw=lambda data, subject: draw_angular_updates(data),
)  # fmt: skip
