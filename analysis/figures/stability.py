"""Batch sharpness over training, times learning rate / 2, beside the plateaus that theory predicts.

On this scale the plateau without momentum is 1; with momentum b it is 1 - b for small batches and 1 + b for large ones. A panel for
each momentum; lines are means over seeds, bands one standard deviation, crosses the largest eigenvalue on the same scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.comparison.stability import is_constant_sgd
from analysis.drawing import style
from analysis.drawing.chart import Chart, Panel
from analysis.drawing.declaration import FigureKind, whole_study
from analysis.drawing.progress_axes import EPOCH_AXES, add_epoch_axes
from analysis.drawing.selection import CellRows, cell_of_trial, rows_by_cell, shown_cells, spread_over_trials
from analysis.records.frames import Study

_PLATEAU = (0, (5, 2))  # dashes
_MOST_PANELS = 3
_TITLE = "batch sharpness × learning rate / 2"


@dataclass(frozen=True)
class Sharpness:
    """`sharpness` and `eigenvalues` have columns cell, epoch, mean, sd, num and those of EPOCH_AXES, times learning rate / 2.

    `momenta` has None for a cell that is not plain SGD at a constant learning rate, of which nothing is predicted.
    """

    sharpness: CellRows
    eigenvalues: pd.DataFrame
    momenta: Mapping[int, float | None]


def build_sharpness(study: Study) -> Sharpness:
    """Of every shown cell. Errors: NothingToDraw."""
    cells = shown_cells(study)
    half_rate = {cell.index: float(cell.config["learning_rate"]) / 2 for cell in cells}
    epochs = study.epochs.assign(cell=study.epochs["trial_id"].astype(object).map(cell_of_trial(cells)))
    epochs = epochs.dropna(subset=["cell"]).astype({"cell": int})
    scaled = epochs.assign(
        **{name: epochs[name] * epochs["cell"].map(half_rate) for name in ("batch_sharpness", "top_eigenvalue")}
    )
    found = [spread_over_trials(scaled, ["cell", "epoch"], name) for name in ("batch_sharpness", "top_eigenvalue")]
    rows = rows_by_cell(add_epoch_axes(study, found[0]), cells, "the batch sharpness was not measured")
    momenta = {cell.index: float(cell.config["momentum"]) if is_constant_sgd(cell.config) else None for cell in cells}
    return Sharpness(rows, add_epoch_axes(study, found[1]), momenta)


@style.styled()
def draw_sharpness(data: Sharpness) -> Figure:
    """A panel for each momentum, over steps."""
    found = {data.momenta[index] for index, _ in data.sharpness.labels}
    momenta: list[float | None] = [*sorted(m for m in found if m is not None), *([None] if None in found else [])]
    momenta = momenta[:_MOST_PANELS]
    marks = [
        Line2D([], [], color=style.INK, linestyle=_PLATEAU, label="predicted plateau"),
        Line2D([], [], color=style.INK, linestyle="none", marker="x", label="largest eigenvalue"),
    ]
    figure = style.new_cell_figure(5.2 * len(momenta), 4.2, "Batch sharpness", data.sharpness.labels, marks)
    for axes, momentum in zip(figure.subplots(1, len(momenta), sharey=True, squeeze=False).flat, momenta, strict=True):
        plateaus = {} if momentum is None else {1 - momentum: "small batches", 1 + momentum: "large batches"}
        for value, told in plateaus.items():
            line = axes.axhline(value, color=style.INK, linewidth=1.0, linestyle=_PLATEAU)
            style.set_hover(line, f"predicted of {told if momentum else 'all batches'}: {value:.3g}")
        for index, label in data.sharpness.labels:
            if data.momenta[index] == momentum:
                look, rows = style.cell_style(index), data.sharpness.of(index)
                last = style.format_value(float(rows["mean"].iloc[-1]))
                style.plot_cell(axes, rows, "step", "mean", index, f"{label}: {last} at the end")
                low = (rows["mean"] - rows["sd"]).clip(lower=rows["mean"] / 10)
                axes.fill_between(
                    rows["step"], low, rows["mean"] + rows["sd"], color=look["color"], alpha=0.15, linewidth=0
                )
                top = data.eigenvalues[data.eigenvalues["cell"] == index]
                axes.plot(top["step"], top["mean"], linestyle="none", marker="x", color=look["color"])
        style.use_log_axis(axes, "x")
        style.use_log_axis(axes, "y")
        axes.set_title(
            "not SGD at a constant rate: nothing predicted" if momentum is None else f"momentum {momentum:g}"
        )
        axes.set_xlabel("steps")
    figure.axes[0].set_ylabel(_TITLE)
    return figure


def chart_sharpness(data: Sharpness) -> Chart:
    """The lines of the cells."""
    panel = Panel("sharpness", _TITLE, log=True)
    rows = data.sharpness.rows.assign(panel=panel.name)
    axes = {name: title for name, title in EPOCH_AXES.items() if name in rows}
    return Chart("Batch sharpness", (panel,), data.sharpness.labels, axes, rows)


FIGURE = FigureKind(
    name="stability", section="dynamics", position=35, title="Batch sharpness",
    caption="Curvature of a mini-batch's loss along its own gradient, times learning rate / 2. By theory it settles at 1 "
    "without momentum (arXiv 2412.20553), at 1 - b for small and 1 + b for large batches with momentum b (arXiv 2604.14108).",
    picture_caption="These values are dashed.",
    build=lambda study, subject: build_sharpness(study), draw=lambda data, subject: draw_sharpness(data),
    chart=lambda data, subject: chart_sharpness(data),
    subjects=lambda study: whole_study(study) if study.epochs["batch_sharpness"].notna().any() else [],
)  # fmt: skip
