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

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, Subject, each_first_trial
from analysis.drawing.layer_records import load_last_steps, load_trial_layers
from analysis.drawing.selection import choose_layers, require
from analysis.records.frames import Study
from analysis.records.phases import shown_epochs
from trainable.config import FIELDS


@dataclass(frozen=True)
class GradientFlow:
    """`values` has columns epoch, layer, mean, max; `layers` names the rows from the input to the output."""

    values: pd.DataFrame
    layers: tuple[str, ...]
    epochs: tuple[int, ...]


def build_gradient_flow(layers: pd.DataFrame, epochs: Iterable[int] | None = None) -> GradientFlow:
    """Mean and maximum |g| per layer, at `epochs` (default: those of the published figure, scaled) that were measured."""
    frame = layers[~layers["layer"].astype(str).str.endswith(".bias")]
    frame = frame[np.isfinite(frame["gradient_mean_abs"]) & np.isfinite(frame["gradient_max_abs"])]
    frame = require(frame, "no gradients were measured")
    frame = frame[frame["layer"].isin(choose_layers(frame))]
    wanted = shown_epochs(int(frame["epoch"].max())) if epochs is None else epochs
    frame = require(frame[frame["epoch"].isin(list(wanted))], "no gradients were measured at these epochs")
    grouped = frame.groupby(["epoch", "layer"], observed=True, sort=False)
    values = grouped.agg(mean=("gradient_mean_abs", "mean"), max=("gradient_max_abs", "max")).reset_index()
    values = values.astype({"layer": str, "mean": float, "max": float})
    return GradientFlow(
        values, tuple(dict.fromkeys(values["layer"])), tuple(sorted(int(epoch) for epoch in values["epoch"].unique()))
    )


@style.styled()
def draw_gradient_flow(data: GradientFlow, title: str) -> Figure:
    """A panel per epoch, a row per layer: the mean as a dark bar inside the light bar of the maximum."""
    rows = len(data.layers)
    figure = style.new_figure(max(2.6 + 1.75 * len(data.epochs), 6.5), 1.5 + 0.165 * rows, title)
    panels = figure.subplots(1, len(data.epochs), squeeze=False)[0]
    limits = _limits(data.values)
    for axes, epoch in zip(panels, data.epochs, strict=True):
        own = data.values[data.values["epoch"] == epoch].set_index("layer").reindex(data.layers)
        means, maxima = own["mean"].tolist(), own["max"].tolist()
        hovers = [
            f"{layer}: mean {style.format_value(mean)}, max {style.format_value(maximum)}"
            for layer, mean, maximum in zip(data.layers, means, maxima, strict=True)
        ]
        axes.set_xscale("log")
        axes.set_xlim(*limits)
        style.draw_rows(axes, maxima, [style.LIGHT_BAR] * rows, hovers, start=limits[0], height=0.8)
        style.draw_rows(axes, means, [style.DARK_BAR] * rows, hovers, start=limits[0], height=0.5)
        axes.set_xlim(*limits)
        style.use_log_axis(axes, "x")
        style.name_rows(axes, data.layers, labels=axes is panels[0])
        axes.set_title(f"epoch {epoch}")
    handles = [Patch(color=style.DARK_BAR, label="mean |g|"), Patch(color=style.LIGHT_BAR, label="max |g|")]
    style.add_legend(figure, handles, 2)
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


def _build_of_last_steps(study: Study, subject: Subject) -> GradientFlow:
    layers = load_last_steps(study, subject.own_cell)
    return build_gradient_flow(require(layers, "no epoch's last step was measured"))


def _published_ones(study: Study) -> list[Subject]:
    """The trials of the network that the published figure is about."""
    published = FIELDS["model"].default
    return [s for s in each_first_trial(study) if s.own_cell.config.get("model", published) == published]


FIGURE = FigureKind(
    name="gradient_flow", section="dynamics", position=50, title="Gradient flow by layer",
    caption=lambda study, subject: f"Seed {subject.seed}: mean |g| over the epoch's measured steps and the largest |g| of them, "
    "without biases.",
    subjects=each_first_trial, build=lambda study, subject: build_gradient_flow(load_trial_layers(study, subject.own_cell)),
    build_at_epoch=lambda layers, epoch: build_gradient_flow(layers, [epoch]),
    draw=lambda data, subject: draw_gradient_flow(data, f"Gradient flow, {subject.about}"),
)  # fmt: skip
PUBLISHED = FigureKind(
    name="gradient_flow_last_step", section="dynamics", position=55, title="Gradient flow by layer, as published",
    caption=lambda study, subject: f"Seed {subject.seed}: mean |g| and largest |g| at the last step of each epoch alone, without "
    "biases, as the published Figure 4 has them.",
    subjects=_published_ones, build=_build_of_last_steps, of_last_steps=True,
    build_at_epoch=lambda layers, epoch: build_gradient_flow(layers, [epoch]),
    draw=lambda data, subject: draw_gradient_flow(data, f"Gradient flow at the last step, {subject.about}"),
)  # fmt: skip
