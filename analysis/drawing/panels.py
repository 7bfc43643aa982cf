"""A grid of small panels, one per cell, with shared axes: how figures that compare cells side by side are laid out."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing.style import new_figure, shown

MAX_PANELS = 12


def new_panels(
    title: str, labels: Sequence[tuple[int, str]], *, height_in: float = 2.9
) -> tuple[Figure, list[tuple[int, Axes]]]:
    """A figure with one panel per (index, label), at most 12, with shared axes; the title says if cells were left out."""
    drawn = labels[:MAX_PANELS]
    if len(drawn) < len(labels):
        title = f"{title} (first {len(drawn)} of {len(labels)} cells)"
    columns = 1 if len(drawn) == 1 else 2 if len(drawn) in (2, 4) else 3
    rows = -(-len(drawn) // columns)
    figure = new_figure({1: 8.5, 2: 10.5, 3: 12.0}[columns], 1.1 + height_in * rows, title)
    grid = list(figure.subplots(rows, columns, sharex=False, sharey=True, squeeze=False).flat)
    for axes in grid[len(drawn) :]:
        axes.remove()
    panels = []
    for (index, label), axes in zip(drawn, grid, strict=False):
        axes.set_title(shown(label, 44), fontsize=9)
        panels.append((index, axes))
    return figure, panels
