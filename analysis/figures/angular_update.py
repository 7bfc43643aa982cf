"""Angular update of every convolution followed by batch norm, beside the equilibrium that theory predicts.

The angle between a scale-invariant weight before and after a step settles at sqrt(2 lr wd / (1 + momentum))
(arXiv 2006.08419), with the learning rate the step used. A value is the mean over the cell's trials and the epoch's
measured steps, in radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.layer_records import LayerSummary, load_layer_summary
from analysis.drawing.panels import new_panels
from analysis.drawing.selection import Records, ShownCell, as_frame, require, shown_cells
from analysis.drawing.style import (
    INK,
    format_value,
    group_color,
    group_handles,
    set_hover,
    styled,
    use_epoch_axis,
    use_log_axis,
)  # fmt: skip
from analysis.records.frames import Study


@dataclass(frozen=True)
class AngularUpdates:
    """`angles` has columns cell, layer, group, epoch, angle; `equilibrium` cell, epoch, angle; both in radians."""

    angles: pd.DataFrame
    equilibrium: pd.DataFrame
    labels: tuple[tuple[int, str], ...]


def build_angular_updates(summary: LayerSummary, steps: Records, cells: Sequence[ShownCell]) -> AngularUpdates:
    """Measured angles per convolution and epoch, and the predicted one from the learning rate in `steps`."""
    angles = summary.by_layer[summary.by_layer["angular_update"] > 0]
    require(angles, "no angular update was measured")
    angles = angles.rename(columns={"angular_update": "angle"})[["cell", "layer", "group", "epoch", "angle"]]
    rates = as_frame(steps)[["trial_id", "epoch", "learning_rate"]]
    parts = []
    for cell in cells:
        own = rates[rates["trial_id"].isin(cell.trial_ids)].groupby("epoch")["learning_rate"].mean()
        decay, momentum = float(cell.config["weight_decay"]), float(cell.config["momentum"])
        angle = np.sqrt(2 * own * decay / (1 + momentum))
        parts.append(pd.DataFrame({"cell": cell.index, "epoch": own.index, "angle": angle.to_numpy()}))
    measured = set(angles["cell"])
    return AngularUpdates(
        angles.astype({"layer": str, "group": str, "angle": float}).reset_index(drop=True),
        pd.concat(parts, ignore_index=True),
        tuple((cell.index, cell.label) for cell in cells if cell.index in measured),
    )


@styled()
def draw_angular_updates(data: AngularUpdates) -> Figure:
    """A panel per cell: a line per convolution in the colour of its group, the prediction dashed."""
    figure, panels = new_panels("Angular update of convolutions before batch norm", data.labels)
    for index, axes in panels:
        own = data.angles[data.angles["cell"] == index]
        for (layer, group), rows in own.groupby(["layer", "group"], sort=False):
            marker = "o" if len(rows) == 1 else None
            (line,) = axes.plot(
                rows["epoch"], rows["angle"], color=group_color(str(group)), linewidth=1.0, alpha=0.85, marker=marker
            )
            set_hover(line, f"{layer}: {format_value(float(rows['angle'].iloc[-1]))} rad at the end")
        theory = data.equilibrium[(data.equilibrium["cell"] == index) & (data.equilibrium["angle"] > 0)]
        if len(theory):
            (line,) = axes.plot(theory["epoch"], theory["angle"], color=INK, linestyle=(0, (5, 2)), linewidth=1.8)
            set_hover(line, f"equilibrium: {format_value(float(theory['angle'].iloc[0]))} rad at first")
        use_log_axis(axes, "y")
        use_epoch_axis(axes)
        axes.set_xlabel("epoch")
    figure.supylabel("angle between w before and after a step (rad)", fontsize=9)
    equilibrium = Line2D([], [], color=INK, linestyle=(0, (5, 2)), label="predicted equilibrium")
    handles = [*group_handles(list(data.angles["group"].unique())), equilibrium]
    figure.legend(handles=handles, loc="outside lower center", ncols=7)
    return figure


def _build(study: Study, subject: Subject) -> AngularUpdates:
    return build_angular_updates(load_layer_summary(study), study.steps, shown_cells(study))


FIGURE = FigureKind(
    name="angular_update", section="dynamics", position=20, title="Angular update",
    caption="Angle between a convolution's weights before and after a step, beside the equilibrium sqrt(2·lr·wd / (1 + momentum)) "
    "for the learning rate of the step (arXiv 2006.08419). Mean over measured steps and seeds.",
    build=_build, draw=lambda data, subject: draw_angular_updates(data),
)  # fmt: skip
