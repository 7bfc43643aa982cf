"""The pictures of a trial at an epoch, as PNG files, from its layer records. Knows no wandb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.drawing.declaration import Subject
from analysis.drawing.style import NothingToDraw, styled
from analysis.figures import trial_figures

LAYER_COLUMNS = (
    "trial_id", "epoch", "step", "layer", "group", "kind", "gradient_mean_abs", "gradient_max_abs", "weight_mean_abs", "weight_std",
    "displacement_mean_abs",
)  # fmt: skip


def draw_picture(name: str, layers: pd.DataFrame, about: str, path: Path) -> bool:
    """Write the picture `kind/epoch_N` as PNG; False where nothing was measured for it."""
    name, _, epoch = name.partition("/epoch_")
    kind = trial_figures()[name]
    assert kind.build_at_epoch is not None
    try:
        figure = kind.draw(kind.build_at_epoch(layers, int(epoch)), Subject(about=about))
    except NothingToDraw:
        return False
    with styled(), path.open("wb") as file:
        canvas: Any = FigureCanvasAgg(figure)  # its methods are untyped
        canvas.print_png(file)
    return True
