"""Gradient flow: mean and maximum |g| of every layer of one trial at chosen epochs, on a logarithmic axis, no biases.

A value of an epoch is taken over the epoch's measured steps: the mean of mean |g|, the maximum of max |g|. Works on the
layer records of one trial, from a file or from memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.drawing.declaration import FigureKind, Subject, each_first_trial
from analysis.drawing.layer_records import load_last_steps, load_trial_layers
from analysis.drawing.selection import Records, as_frame, require
from analysis.drawing.style import (
    DARK_BAR,
    LIGHT_BAR,
    draw_rows,
    format_value,
    name_rows,
    new_figure,
    styled,
    use_log_axis,
)  # fmt: skip
from analysis.records.frames import Study
from analysis.records.phases import shown_epochs


@dataclass(frozen=True)
class GradientFlow:
    """`values` has columns epoch, layer, mean, max; `layers` names the rows from the input to the output."""

    values: pd.DataFrame
    layers: tuple[str, ...]
    epochs: tuple[int, ...]


def build_gradient_flow(layers: Records, epochs: Iterable[int] | None = None) -> GradientFlow:
    """Mean and maximum |g| per layer, at `epochs` (default: those of the published figure, scaled) that were measured."""
    frame = as_frame(layers)
    frame = frame[~frame["layer"].astype(str).str.endswith(".bias")]
    frame = frame[np.isfinite(frame["gradient_mean_abs"]) & np.isfinite(frame["gradient_max_abs"])]
    require(frame, "no gradients were measured")
    wanted = shown_epochs(int(frame["epoch"].max())) if epochs is None else epochs
    frame = require(frame[frame["epoch"].isin(list(wanted))], "no gradients were measured at these epochs")
    grouped = frame.groupby(["epoch", "layer"], observed=True, sort=False)
    values = grouped.agg(mean=("gradient_mean_abs", "mean"), max=("gradient_max_abs", "max")).reset_index()
    values = values.astype({"layer": str, "mean": float, "max": float})
    return GradientFlow(
        values, tuple(dict.fromkeys(values["layer"])), tuple(sorted(int(epoch) for epoch in values["epoch"].unique()))
    )


@styled()
def draw_gradient_flow(data: GradientFlow, title: str) -> Figure:
    """A panel per epoch, a row per layer: the mean as a dark bar inside the light bar of the maximum."""
    rows = len(data.layers)
    figure = new_figure(max(2.6 + 1.75 * len(data.epochs), 6.5), 1.5 + 0.165 * rows, title)
    panels = figure.subplots(1, len(data.epochs), squeeze=False)[0]
    limits = _limits(data.values)
    for axes, epoch in zip(panels, data.epochs, strict=True):
        own = data.values[data.values["epoch"] == epoch].set_index("layer").reindex(data.layers)
        means, maxima = own["mean"].tolist(), own["max"].tolist()
        hovers = [
            f"{layer}: mean {format_value(mean)}, max {format_value(maximum)}"
            for layer, mean, maximum in zip(data.layers, means, maxima, strict=True)
        ]
        axes.set_xscale("log")
        axes.set_xlim(*limits)
        draw_rows(axes, maxima, [LIGHT_BAR] * rows, hovers, start=limits[0], height=0.8)
        draw_rows(axes, means, [DARK_BAR] * rows, hovers, start=limits[0], height=0.5)
        axes.set_xlim(*limits)
        use_log_axis(axes, "x")
        name_rows(axes, data.layers, labels=axes is panels[0])
        axes.set_title(f"epoch {epoch}")
    handles = [Patch(color=DARK_BAR, label="mean |g|"), Patch(color=LIGHT_BAR, label="max |g|")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _limits(values: pd.DataFrame) -> tuple[float, float]:
    """Whole decades around the positive values, at most twelve; a value of zero has no bar."""
    positive = values[["mean", "max"]].to_numpy()
    positive = positive[positive > 0]
    if not len(positive):
        return 1e-6, 1.0
    high = np.ceil(np.log10(positive.max()))
    low = max(np.floor(np.log10(positive.min()) - 1e-9), high - 12)  # strictly below: the smallest has a bar, too
    return float(10.0**low), float(10.0**high)


def _build(study: Study, subject: Subject) -> GradientFlow:
    assert subject.cell is not None
    return build_gradient_flow(load_trial_layers(study, subject.cell))


def _caption(study: Study, subject: Subject) -> str:
    assert subject.cell is not None
    return (
        f"Seed {subject.cell.representative_seed}: mean |g| over the epoch's measured steps and the largest |g| of them, "
        "without biases."
    )


FIGURE = FigureKind(
    name="gradient_flow", section="dynamics", position=50, title="Gradient flow by layer", caption=_caption,
    subjects=each_first_trial, build=_build, build_at_epoch=lambda layers, epoch: build_gradient_flow(layers, [epoch]),
    draw=lambda data, subject: draw_gradient_flow(data, f"Gradient flow, {subject.about}"),
)  # fmt: skip


def _build_published(study: Study, subject: Subject) -> GradientFlow:
    assert subject.cell is not None
    return build_gradient_flow(require(load_last_steps(study, subject.cell), "no epoch's last step was measured"))


def _caption_published(study: Study, subject: Subject) -> str:
    assert subject.cell is not None
    return (
        f"Seed {subject.cell.representative_seed}: mean |g| and largest |g| at the last step of each epoch alone, without "
        "biases, as the published Figure 4 has them."
    )


PUBLISHED = FigureKind(
    name="gradient_flow_last_step", section="dynamics", position=55, title="Gradient flow by layer, as published",
    caption=_caption_published, subjects=each_first_trial, build=_build_published, of_last_steps=True,
    build_at_epoch=lambda layers, epoch: build_gradient_flow(layers, [epoch]),
    draw=lambda data, subject: draw_gradient_flow(data, f"Gradient flow at the last step, {subject.about}"),
)  # fmt: skip
