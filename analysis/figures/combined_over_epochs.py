"""The combined analysis at all the epochs that the published program made a picture of: gradient and change of every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, each_first_trial
from analysis.drawing.layer_records import load_trial_layers
from analysis.figures.combined_analysis import CombinedAnalysis, build_combined_analysis
from analysis.records.phases import shown_epochs

_PANELS = {"gradient": "Mean gradient |g| of all steps so far", "change": "Mean weight change |w − w₀|"}


@dataclass(frozen=True)
class CombinedEpochs:
    """The combined analysis at each epoch, the first one first."""

    epochs: tuple[CombinedAnalysis, ...]


def build_combined_epochs(layers: pd.DataFrame, num_epochs: int) -> CombinedEpochs:
    """At epochs 1, 5, 10, 15, 20 and 25 of 25, in proportion for another length; those that were measured."""
    measured = set(layers["epoch"])
    found = [build_combined_analysis(layers, epoch) for epoch in shown_epochs(num_epochs) if epoch in measured]
    if not found:
        raise style.NothingToDraw("no layers were measured")
    return CombinedEpochs(tuple(found))


@style.styled()
def draw_combined_epochs(data: CombinedEpochs, title: str) -> Figure:
    """A row per tensor with a dot for each epoch, darker for later ones."""
    last = data.epochs[-1].rows
    figure = style.new_figure(10.5, 1.4 + 0.155 * len(last), title)
    rows = {layer: row for row, layer in enumerate(last["layer"])}
    shades = np.linspace(0.2, 1.0, len(data.epochs)) if len(data.epochs) > 1 else np.ones(1)
    for axes, (column, heading) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        for shade, at in zip(shades, data.epochs, strict=True):
            own = at.rows[at.rows[column] > 0]
            places = [rows[layer] for layer in own["layer"] if layer in rows]
            told = f"epoch {at.epoch}"
            look: dict[str, Any] = {
                "linestyle": "none",
                "marker": "o",
                "markersize": 4,
                "color": style.DARK_BAR,
                "alpha": float(shade),
            }
            style.plot(axes, own[own["layer"].isin(rows)][column], places, told, **look)
        style.name_rows(axes, list(rows), labels=column == "gradient")
        axes.set_title(heading)
        style.use_log_axis(axes, "x")
    handles = [
        Line2D(
            [], [], linestyle="none", marker="o", color=style.DARK_BAR, alpha=float(shade), label=f"epoch {at.epoch}"
        )
        for shade, at in zip(shades, data.epochs, strict=True)
    ]
    style.add_legend(figure, handles, len(handles))
    return figure


FIGURE = FigureKind(
    name="combined_over_epochs", section="dynamics", position=85, title="Combined analysis over the epochs",
    caption=lambda study, subject: f"Seed {subject.seed}: what the combined analysis shows at epochs 1, 5, 10, 15, 20 and 25 (in "
    "proportion for another length), beside each other.",
    subjects=each_first_trial,
    build=lambda study, subject: build_combined_epochs(
        load_trial_layers(study, subject.own_cell), int(subject.own_cell.config["epochs"])
    ),
    draw=lambda data, subject: draw_combined_epochs(data, f"Combined analysis over the epochs, {subject.about}"),
)  # fmt: skip
