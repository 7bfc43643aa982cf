"""The texts of a drawn figure, and those that overlap: what tests of figures ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.drawing.style import styled


def find_drawn_texts(figure: Figure) -> list[Text]:
    """The visible texts of a figure, laid out; tick labels outside their axis are not drawn."""
    canvas: Any = FigureCanvasAgg(figure)
    with styled():
        canvas.draw()
    return [text for text in _walk_texts(figure) if text.get_visible() and text.get_text().strip()]


def _walk_texts(figure: Figure) -> Iterator[Text]:
    tick_labels = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                inside = low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)
                labels = {tick.label1, tick.label2}
                tick_labels |= labels
                if inside and axes.axison and tick.label1.get_visible():
                    yield tick.label1
    yield from (text for text in figure.findobj(Text) if text not in tick_labels and _is_shown(text))


def _is_shown(text: object) -> bool:
    axes = getattr(text, "axes", None)
    return axes is None or axes.axison or text in axes.texts


def find_overlaps(texts: list[Text]) -> list[tuple[str, str]]:
    """Pairs of drawn texts whose boxes share more than a hair."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    x0, y0, x1, y1 = (np.array([getattr(box, side) for _, box in boxes]) for side in ("x0", "y0", "x1", "y1"))
    wide = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    high = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    first, second = np.nonzero(np.triu((wide > 1.5) & (high > 1.5), 1))
    return [(boxes[i][0], boxes[j][0]) for i, j in zip(first, second, strict=True)]
