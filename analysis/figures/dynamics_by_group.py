"""Gradients, updates and turning of every layer group over training: the cells beside each other, with bands over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.drawing.chart import Chart, Panel
from analysis.drawing.declaration import FigureKind
from analysis.drawing.layer_records import VALUES, LayerSummary, load_layer_summary
from analysis.drawing.progress_axes import EPOCH_AXES, add_axes
from analysis.drawing.selection import CellRows, ShownCell, rows_by_cell, shown_cells, spread_over_trials
from analysis.records.phases import order_groups

_TITLES = dict(
    zip(VALUES, ("mean |g|", "‖change of one step‖ / ‖w‖", "angle of one step (rad)"), strict=True)
)  # of a group


def build_dynamics(summary: LayerSummary, cells: Sequence[ShownCell]) -> CellRows:
    """Columns cell, group, epoch, value (one of VALUES), mean, sd, num: the spread over seeds of each trial's mean over the
    group's tensors and the epoch's measured steps."""
    keys = ["cell", "group", "epoch"]
    parts = [spread_over_trials(summary.by_group, keys, value).assign(value=value) for value in VALUES]
    rows = pd.concat([part[part["mean"] > 0] for part in parts], ignore_index=True)
    return rows_by_cell(
        rows.sort_values("group", kind="stable").astype({"group": str}), cells, "no layers were measured"
    )


def chart_dynamics(data: CellRows) -> Chart:
    """A panel per group and quantity, in the order of the network."""
    measured = set(zip(data.rows["group"], data.rows["value"], strict=True))
    order = order_groups(data.rows["group"])
    panels = tuple(
        Panel(f"{group} {value}", f"{group}: {title}", log=True)
        for group in order
        for value, title in _TITLES.items()
        if (group, value) in measured
    )
    rows = data.rows.assign(panel=data.rows["group"] + " " + data.rows["value"])
    axes = {name: title for name, title in EPOCH_AXES.items() if name in rows}
    return Chart("Dynamics by layer group", panels, data.labels, axes, rows, columns=3)


FIGURE = FigureKind(
    name="dynamics_by_group", section="dynamics", position=5, title="Dynamics by layer group",
    caption="Mean |g|, length of one step's change over the length of the weights, and the angle by which it turns them: means over "
    "the group's tensors, the epoch's measured steps and seeds; bands are one standard deviation over seeds.",
    build=lambda study, subject: add_axes(study, build_dynamics(load_layer_summary(study), shown_cells(study))),
    chart=lambda data, subject: chart_dynamics(data),
)  # fmt: skip
