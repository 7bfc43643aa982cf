"""The pictures of a trial at an epoch: the figures that declare to be drawn of one. Knows no wandb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.style import NothingToDraw, styled


def draw_picture(kind: FigureKind[Any], layers: pd.DataFrame, epoch: int, about: str, path: Path) -> bool:
    """Write the figure of a trial at an epoch as PNG, from its layer records; False where nothing was measured for it.

    `layers` are those at the last step of each epoch where the figure is of them, else those at the steps of the cadence.
    """
    assert kind.build_at_epoch is not None
    try:
        figure = kind.draw(kind.build_at_epoch(layers, epoch), Subject(about=about))
    except NothingToDraw:
        return False
    with styled(), path.open("wb") as file:
        canvas: Any = FigureCanvasAgg(figure)  # its methods are untyped
        canvas.print_png(file)
    return True
