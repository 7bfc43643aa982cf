"""The three pictures of a trial at an epoch, as PNG files, from its layer records. Knows no wandb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.drawing.style import NothingToDraw, styled
from analysis.figures import combined_analysis, gradient_flow, weight_updates

LAYER_COLUMNS = (
    "trial_id", "epoch", "step", "layer", "group", "kind", "gradient_mean_abs", "gradient_max_abs", "weight_mean_abs", "weight_std",
    "displacement_mean_abs",
)  # fmt: skip
_DRAWN: dict[str, Callable[[pd.DataFrame, int, str], Figure]] = {
    "gradient_flow": lambda layers, epoch, about: gradient_flow.draw_gradient_flow(
        gradient_flow.build_gradient_flow(layers, [epoch]), f"Gradient flow, {about}"
    ),
    "weight_updates": lambda layers, epoch, about: weight_updates.draw_weight_updates(
        weight_updates.build_weight_updates(layers, epoch), f"Weight updates, {about}"
    ),
    "combined_analysis": lambda layers, epoch, about: combined_analysis.draw_combined_analysis(
        combined_analysis.build_combined_analysis(layers, epoch), f"Combined analysis, {about}"
    ),
}


def draw_picture(name: str, layers: pd.DataFrame, about: str, path: Path) -> bool:
    """Write the picture `kind/epoch_N` as PNG; False where nothing was measured for it."""
    kind, _, epoch = name.partition("/epoch_")
    try:
        figure = _DRAWN[kind](layers, int(epoch), about)
    except NothingToDraw:
        return False
    with styled(), path.open("wb") as file:
        canvas: Any = FigureCanvasAgg(figure)  # its methods are untyped
        canvas.print_png(file)
    return True
