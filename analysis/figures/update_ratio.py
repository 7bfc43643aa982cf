"""Update-to-weight ratio over time: the length of one step's change over the length of the weights, by layer group.

A line is the mean over seeds of each trial's mean over the group's tensors and the epoch's measured steps; the band is
one standard deviation over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind
from analysis.drawing.layer_records import LayerSummary, load_layer_summary
from analysis.drawing.panels import new_panels
from analysis.drawing.selection import CellRows, ShownCell, rows_by_cell, shown_cells, spread_over_trials


def build_update_ratios(summary: LayerSummary, cells: Sequence[ShownCell]) -> CellRows:
    """The ratio with its spread over seeds: columns cell, group, epoch, mean, sd, num."""
    spread = spread_over_trials(summary.by_group, ["cell", "group", "epoch"], "update_ratio")
    return rows_by_cell(
        spread.sort_values("group", kind="stable").astype({"group": str}), cells, "no updates were measured"
    )


@style.styled()
def draw_update_ratios(data: CellRows) -> Figure:
    """A panel per cell, a line per group."""
    figure, panels = new_panels("Update-to-weight ratio by layer group", data.labels)
    colors = style.group_colors(data.rows["group"])
    for index, axes in panels:
        own = data.of(index)
        for group, rows in own[own["mean"] > 0].groupby("group", sort=False):
            told = f"{group}: {style.format_value(float(rows['mean'].iloc[-1]))} at the end"
            color = colors[str(group)]
            style.plot(axes, rows["epoch"], rows["mean"], told, color=color, marker="o" if len(rows) == 1 else None)
            low = np.maximum(rows["mean"] - rows["sd"], rows["mean"] / 10)
            axes.fill_between(rows["epoch"], low, rows["mean"] + rows["sd"], color=color, alpha=0.2, linewidth=0)
        style.use_log_axis(axes, "y")
        style.use_epoch_axis(axes)
        axes.set_xlabel("epoch")
    figure.supylabel("‖change of one step‖ / ‖w‖", fontsize=9)
    style.add_legend(figure, style.group_handles(data.rows["group"]), 6)
    return figure


FIGURE = FigureKind(
    name="update_ratio", section="dynamics", position=10, title="Update-to-weight ratio",
    caption="Length of one step's change over the length of the weights, by layer group: mean over tensors, measured steps and "
    "seeds; bands are one standard deviation over seeds.",
    build=lambda study, subject: build_update_ratios(load_layer_summary(study), shown_cells(study)),
    draw=lambda data, subject: draw_update_ratios(data),
)  # fmt: skip
