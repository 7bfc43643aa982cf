"""Training curves: loss and accuracy by epoch, of one cell and of all cells beside each other.

Lines are means over seeds, bands one standard deviation to each side; with one seed there is no band. Accuracy is a
fraction in the data and a percentage on the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import style
from analysis.drawing.chart import Chart, Panel, draw_chart
from analysis.drawing.declaration import FigureKind, Subject, each_cell, whole_study
from analysis.drawing.progress_axes import EPOCH_AXES, add_axes
from analysis.drawing.selection import CellRows, ShownCell, cell_of_trial, rows_by_cell, shown_cells, spread_over_trials
from analysis.records.frames import Study

METRICS = {
    "train_loss": "training loss (nats)",
    "test_loss": "test loss (nats)",
    "train_accuracy": "training accuracy (%)",
    "test_accuracy": "test accuracy (%)",
}
_PARTS = (
    ("train", "training", {"color": style.cell_style(1)["color"], "marker": "o"}),
    ("test", "test", {"color": style.cell_style(0)["color"], "marker": "s"}),
)


def build_training_curves(epochs: pd.DataFrame, cells: Sequence[ShownCell]) -> CellRows:
    """Mean and standard deviation over the seeds of every cell: columns cell, metric, epoch, mean, sd, num."""
    cell = epochs["trial_id"].astype(object).map(cell_of_trial(cells))
    frame = epochs[cell.notna()].assign(cell=cell.dropna().astype(int))
    parts = [spread_over_trials(frame, ["cell", "epoch"], metric).assign(metric=metric) for metric in METRICS]
    return rows_by_cell(pd.concat(parts, ignore_index=True), cells, "no epoch has been recorded")


@style.styled()
def draw_cell_curves(data: CellRows, index: int) -> Figure:
    """Loss and accuracy of one cell, training and test in one panel each."""
    own = data.of(index)
    seeds = int(own["num"].max())
    figure = style.new_figure(9.5, 3.9, f"Training curves, {dict(data.labels)[index]}")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for part, name, look in _PARTS:
            _draw_line(axes, own[own["metric"] == f"{part}_{quantity}"], look, name)
        axes.legend(loc="best")
        axes.set_title("Loss (nats)" if quantity == "loss" else "Accuracy (%)")
        _finish(axes, is_accuracy=quantity == "accuracy")
    band = "mean of {} seeds, band: one standard deviation" if seeds > 1 else "{} seed, so no spread is known"
    figure.supxlabel(f"epoch ({band.format(seeds)})", fontsize=9)
    return figure


def chart_curves(data: CellRows) -> Chart:
    """The four metrics of all cells; those that no trial has are left out."""
    measured = set(data.rows["metric"])
    panels = tuple(
        Panel(metric, title[0].upper() + title[1:], in_percent=metric.endswith("accuracy"))
        for metric, title in METRICS.items()
        if metric in measured
    )
    axes = {name: title for name, title in EPOCH_AXES.items() if name in data.rows}
    return Chart("Training curves compared", panels, data.labels, axes, data.rows.rename(columns={"metric": "panel"}))


def _draw_line(axes: Axes, rows: pd.DataFrame, look: dict[str, Any], label: str) -> None:
    if rows.empty:
        return
    last = rows.iloc[-1]
    sd = f" ± {last['sd']:.4f}" if last["num"] > 1 else ""
    told = f"{label}: {last['mean']:.4f}{sd} at epoch {int(last['epoch'])}"
    style.plot(
        axes,
        rows["epoch"],
        rows["mean"],
        told,
        markevery=style.marker_every(len(rows)),
        label=style.shown(label),
        **look,
    )
    if rows["sd"].notna().any():
        axes.fill_between(
            rows["epoch"], rows["mean"] - rows["sd"], rows["mean"] + rows["sd"], color=look["color"], alpha=0.18,
            linewidth=0,
        )  # fmt: skip


def _finish(axes: Axes, *, is_accuracy: bool) -> None:
    style.use_epoch_axis(axes)
    if is_accuracy:
        style.use_percent_axis(axes)
    else:
        style.use_plain_axis(axes, "y")


def _build_of_study(study: Study) -> CellRows:
    return add_axes(study, build_training_curves(study.epochs, shown_cells(study)))


def _draw(data: CellRows, subject: Subject) -> Figure:
    if subject.cell is None:
        return draw_chart(chart_curves(data))
    if subject.cell.index not in dict(data.labels):
        raise style.NothingToDraw("no epoch of this cell has been recorded")
    return draw_cell_curves(data, subject.cell.index)


FIGURE = FigureKind(
    name="training_curves", section="curves", position=10,
    title=lambda subject: "Training curves" if subject.cell else "Training curves compared",
    caption="Lines are means over seeds, bands one standard deviation; a single seed has no band.",
    subjects=lambda study: [*whole_study(study), *each_cell(study)],
    build=lambda study, subject: study.derive(_build_of_study), draw=_draw,
    chart=lambda data, subject: None if subject.cell else chart_curves(data),
)  # fmt: skip
