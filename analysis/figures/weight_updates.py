"""Weight updates of one trial, the published four panels over all layers.

Mean change over time, current change per layer, mean |w| over time and standard deviation over time, where change is
mean |w - w0|, the distance from the initial weights, as published. Works on the layer records of one trial, from a file
or from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing.declaration import FigureKind, Subject, each_first_trial
from analysis.drawing.layer_records import load_trial_layers
from analysis.drawing.selection import Records, as_frame, require
from analysis.drawing.style import (
    INK,
    draw_rows,
    format_value,
    group_color,
    group_handles,
    name_rows,
    new_figure,
    set_hover,
    styled,
    use_log_axis,
    use_plain_axis,
)  # fmt: skip
from analysis.records.frames import Study

PANELS = {
    "displacement_mean_abs": "Mean change |w − w₀| over time",
    "weight_mean_abs": "Mean |w| over time",
    "weight_std": "Standard deviation of w over time",
}
_DASHES: dict[str, Any] = {"conv": "-", "bn": (0, (1, 1)), "linear": (0, (4, 1.5))}
_KIND_NAMES = {"conv": "convolution", "bn": "batch norm", "linear": "linear"}
_MAX_MOMENTS = 50


@dataclass(frozen=True)
class WeightUpdates:
    """`over_time` has columns layer, group, kind, step and those of PANELS; `current` layer, group, change."""

    over_time: pd.DataFrame
    current: pd.DataFrame
    epoch: int
    step: int


def build_weight_updates(layers: Records, epoch: int | None = None) -> WeightUpdates:
    """The records up to the end of `epoch` (default: the last); "current" is the last measured step of that time.

    More than 50 measured steps are thinned evenly to 50, the last one kept.
    """
    frame = as_frame(layers)
    if epoch is not None:
        frame = frame[frame["epoch"] <= epoch]
    frame = frame.replace([np.inf, -np.inf], np.nan).dropna(subset=["displacement_mean_abs"])
    require(frame, "no weights were measured")
    steps = np.sort(frame["step"].unique())
    last = int(steps[-1])
    kept = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MAX_MOMENTS)).round().astype(int))]
    over_time = frame[frame["step"].isin(kept)][["layer", "group", "kind", "step", *PANELS]]
    current = frame[frame["step"] == last][["layer", "group", "displacement_mean_abs"]]
    return WeightUpdates(
        over_time.astype({"layer": str, "group": str, "kind": str}).reset_index(drop=True),
        current.rename(columns={"displacement_mean_abs": "change"}).astype({"layer": str, "group": str}).reset_index(drop=True),
        int(frame.loc[frame["step"] == last, "epoch"].iloc[0]), last,
    )  # fmt: skip


@styled()
def draw_weight_updates(data: WeightUpdates, title: str) -> Figure:
    """Three panels over time at the left, the current change of every layer at the right."""
    figure = new_figure(12, max(1.4 + 0.155 * len(data.current), 7), title)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.25, 1))
    for row, (column, heading) in enumerate(PANELS.items()):
        axes = figure.add_subplot(grid[row, 0])
        _draw_over_time(axes, data.over_time, column)
        axes.set_title(heading)
        if row == len(PANELS) - 1:
            axes.set_xlabel("step")
    _draw_current(figure.add_subplot(grid[:, 1]), data)
    kinds = [kind for kind in _DASHES if kind in set(data.over_time["kind"])]
    handles = [
        *group_handles(list(data.over_time["group"].unique())),
        *(Line2D([], [], color=INK, linestyle=_DASHES[kind], label=_KIND_NAMES[kind]) for kind in kinds),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=9)
    return figure


def _draw_over_time(axes: Axes, rows: pd.DataFrame, column: str) -> None:
    logarithmic = column == "displacement_mean_abs" and bool((rows[column] > 0).any())
    if logarithmic:
        rows = rows[rows[column] > 0]
    for (layer, group, kind), own in rows.groupby(["layer", "group", "kind"], sort=False):
        alone: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(own) == 1 else {}
        (line,) = axes.plot(
            own["step"], own[column], color=group_color(str(group)), linestyle=_DASHES.get(str(kind), "-"),
            linewidth=1.0, alpha=0.85, **alone,
        )  # fmt: skip
        set_hover(line, f"{layer}: {format_value(float(own[column].iloc[-1]))}")
    if logarithmic:
        use_log_axis(axes, "y")
    else:
        use_plain_axis(axes, "y")
    use_plain_axis(axes, "x")


def _draw_current(axes: Axes, data: WeightUpdates) -> None:
    names, changes = list(data.current["layer"]), data.current["change"].tolist()
    hovers = [f"{layer}: {format_value(change)}" for layer, change in zip(names, changes, strict=True)]
    draw_rows(axes, changes, [group_color(group) for group in data.current["group"]], hovers)
    name_rows(axes, names)
    axes.set_title(f"Change |w − w₀| per layer, epoch {data.epoch}, step {data.step}")
    axes.set_xlabel("mean |w − w₀|")
    use_plain_axis(axes, "x", bins=5)


def _build(study: Study, subject: Subject) -> WeightUpdates:
    assert subject.cell is not None
    return build_weight_updates(load_trial_layers(study, subject.cell))


def _caption(study: Study, subject: Subject) -> str:
    assert subject.cell is not None
    return f"Seed {subject.cell.representative_seed}: change is mean |w − w₀|, the distance from the initial weights, as published."


FIGURE = FigureKind(
    name="weight_updates", section="dynamics", position=70, title="Weight updates", caption=_caption,
    subjects=each_first_trial, build=_build, build_at_epoch=build_weight_updates,
    draw=lambda data, subject: draw_weight_updates(data, f"Weight updates, {subject.about}"),
)  # fmt: skip
