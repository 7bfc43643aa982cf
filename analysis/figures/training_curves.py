"""Training curves: loss and accuracy by epoch, of one cell and of all cells beside each other.

Lines are means over seeds, bands one standard deviation to each side; with one seed there is no band. Accuracy is a
fraction in the data and a percentage on the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind, Subject, each_cell, whole_study
from analysis.drawing.selection import (
    Records,
    ShownCell,
    as_frame,
    cell_of_trial,
    require,
    shown_cells,
    spread_over_trials,
)
from analysis.drawing.style import (
    NothingToDraw,
    cell_handles,
    cell_style,
    marker_every,
    new_figure,
    set_hover,
    shown,
    styled,
    use_epoch_axis,
    use_percent_axis,
    use_plain_axis,
)  # fmt: skip
from analysis.records.frames import Study

METRICS = {
    "train_loss": "training loss (nats)",
    "test_loss": "test loss (nats)",
    "train_accuracy": "training accuracy (%)",
    "test_accuracy": "test accuracy (%)",
}
_TRAIN, _TEST = cell_style(1)["color"], cell_style(0)["color"]


@dataclass(frozen=True)
class TrainingCurves:
    """`spread` has columns cell, metric, epoch, mean, sd, num; `labels` the cells as (index, label)."""

    spread: pd.DataFrame
    labels: tuple[tuple[int, str], ...]


def build_training_curves(epochs: Records, cells: Sequence[ShownCell]) -> TrainingCurves:
    """Mean and standard deviation over the seeds of every cell, for each metric and epoch."""
    frame = as_frame(epochs)
    cell = frame["trial_id"].astype(object).map(cell_of_trial(cells))
    frame = frame[cell.notna()].assign(cell=cell.dropna().astype(int))
    parts = [spread_over_trials(frame, ["cell", "epoch"], metric).assign(metric=metric) for metric in METRICS]
    spread = require(pd.concat(parts, ignore_index=True), "no epoch has been recorded")
    labels = tuple((cell.index, cell.label) for cell in cells if cell.index in set(spread["cell"]))
    return TrainingCurves(spread[["cell", "metric", "epoch", "mean", "sd", "num"]], labels)


@styled()
def draw_cell_curves(data: TrainingCurves, index: int) -> Figure:
    """Loss and accuracy of one cell, training and test in one panel each."""
    own = data.spread[data.spread["cell"] == index]
    seeds = int(own["num"].max())
    figure = new_figure(9.5, 3.9, f"Training curves, {dict(data.labels)[index]}")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for part, style in (
            ("train", {"color": _TRAIN, "marker": "o"}),
            ("test", {"color": _TEST, "marker": "s", "linestyle": "-"}),
        ):
            _draw_line(
                axes, own[own["metric"] == f"{part}_{quantity}"], style, {"train": "training", "test": "test"}[part]
            )
        axes.legend(loc="best")
        axes.set_title("Loss (nats)" if quantity == "loss" else "Accuracy (%)")
        _finish(axes, is_accuracy=quantity == "accuracy")
    band = "mean of {} seeds, band: one standard deviation" if seeds > 1 else "{} seed, so no spread is known"
    figure.supxlabel(f"epoch ({band.format(seeds)})", fontsize=9)
    return figure


@styled()
def draw_compared_curves(data: TrainingCurves) -> Figure:
    """The four metrics of all cells."""
    rows_of_legend = -(-len(data.labels) // 3)
    figure = new_figure(10, 7.0 + 0.2 * rows_of_legend, "Training curves compared")
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, METRICS.items(), strict=True):
        for index, label in data.labels:
            own = data.spread[(data.spread["cell"] == index) & (data.spread["metric"] == metric)]
            _draw_line(axes, own, cell_style(index), label)
        axes.set_title(title[0].upper() + title[1:])
        axes.set_xlabel("epoch")
        _finish(axes, is_accuracy=metric.endswith("accuracy"))
    figure.legend(handles=cell_handles(data.labels), loc="outside lower center", ncols=min(3, len(data.labels)))
    return figure


def _draw_line(axes: Axes, rows: pd.DataFrame, style: dict[str, Any], label: str) -> None:
    if rows.empty:
        return
    (line,) = axes.plot(rows["epoch"], rows["mean"], markevery=marker_every(len(rows)), label=shown(label), **style)
    last = rows.iloc[-1]
    sd = f" ± {last['sd']:.4f}" if last["num"] > 1 else ""
    set_hover(line, f"{label}: {last['mean']:.4f}{sd} at epoch {int(last['epoch'])}")
    if rows["sd"].notna().any():
        axes.fill_between(
            rows["epoch"], rows["mean"] - rows["sd"], rows["mean"] + rows["sd"], color=style["color"], alpha=0.18,
            linewidth=0,
        )  # fmt: skip


def _finish(axes: Axes, *, is_accuracy: bool) -> None:
    use_epoch_axis(axes)
    if is_accuracy:
        use_percent_axis(axes)
    else:
        use_plain_axis(axes, "y")


def _build_of_study(study: Study) -> TrainingCurves:
    return build_training_curves(study.epochs, shown_cells(study))


def _draw(data: TrainingCurves, subject: Subject) -> Figure:
    if subject.cell is None:
        return draw_compared_curves(data)
    if subject.cell.index not in dict(data.labels):
        raise NothingToDraw("no epoch of this cell has been recorded")
    return draw_cell_curves(data, subject.cell.index)


FIGURE = FigureKind(
    name="training_curves", section="curves", position=10,
    title=lambda subject: "Training curves" if subject.cell else "Training curves compared",
    caption="Lines are means over seeds, bands one standard deviation; a single seed has no band.",
    subjects=lambda study: [*whole_study(study), *each_cell(study)],
    build=lambda study, subject: study.derive(_build_of_study), draw=_draw,
)  # fmt: skip
