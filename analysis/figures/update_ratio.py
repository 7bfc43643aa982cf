"""Update-to-weight ratio over time: the length of one step's change over the length of the weights, by layer group.

A line is the mean over seeds of each trial's mean over the group's tensors and the epoch's measured steps; the band is
one standard deviation over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.layer_records import LayerSummary, load_layer_summary
from analysis.drawing.panels import new_panels
from analysis.drawing.selection import ShownCell, require, shown_cells, spread_over_trials
from analysis.drawing.style import (
    format_value,
    group_color,
    group_handles,
    set_hover,
    styled,
    use_epoch_axis,
    use_log_axis,
)  # fmt: skip
from analysis.records.frames import Study
from analysis.records.phases import GROUPS


@dataclass(frozen=True)
class UpdateRatios:
    """`spread` has columns cell, group, epoch, mean, sd, num; `labels` the cells as (index, label)."""

    spread: pd.DataFrame
    labels: tuple[tuple[int, str], ...]


def build_update_ratios(summary: LayerSummary, cells: Sequence[ShownCell]) -> UpdateRatios:
    """The ratio of every cell, group and epoch with its spread over seeds."""
    spread = spread_over_trials(summary.by_group, ["cell", "group", "epoch"], "update_ratio")
    require(spread, "no updates were measured")
    spread = spread.astype({"group": str})
    return UpdateRatios(spread, tuple((c.index, c.label) for c in cells if c.index in set(spread["cell"])))


@styled()
def draw_update_ratios(data: UpdateRatios) -> Figure:
    """A panel per cell, a line per group."""
    figure, panels = new_panels("Update-to-weight ratio by layer group", data.labels)
    groups = [name for name in GROUPS if name in set(data.spread["group"])]
    groups += sorted(set(data.spread["group"]) - set(GROUPS))
    for index, axes in panels:
        for group in groups:
            own = data.spread[(data.spread["cell"] == index) & (data.spread["group"] == group)]
            own = own[own["mean"] > 0]
            if own.empty:
                continue
            marker = "o" if len(own) == 1 else None
            (line,) = axes.plot(own["epoch"], own["mean"], color=group_color(group), marker=marker)
            set_hover(line, f"{group}: {format_value(float(own['mean'].iloc[-1]))} at the end")
            low = np.maximum(own["mean"] - own["sd"], own["mean"] / 10)
            axes.fill_between(
                own["epoch"], low, own["mean"] + own["sd"], color=group_color(group), alpha=0.2, linewidth=0
            )
        use_log_axis(axes, "y")
        use_epoch_axis(axes)
        axes.set_xlabel("epoch")
    figure.supylabel("‖change of one step‖ / ‖w‖", fontsize=9)
    figure.legend(handles=group_handles(groups), loc="outside lower center", ncols=6)
    return figure


def _build(study: Study, subject: Subject) -> UpdateRatios:
    return build_update_ratios(load_layer_summary(study), shown_cells(study))


FIGURE = FigureKind(
    name="update_ratio", section="dynamics", position=10, title="Update-to-weight ratio",
    caption="Length of one step's change over the length of the weights, by layer group: mean over tensors, measured steps and "
    "seeds; bands are one standard deviation over seeds.",
    build=_build, draw=lambda data, subject: draw_update_ratios(data),
)  # fmt: skip
