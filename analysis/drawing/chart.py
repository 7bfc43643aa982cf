"""A figure as data: panels of lines with bands, by cell. A browser draws it as well as matplotlib does (`draw_chart`).

A figure that is one of these declares `chart=` and needs no drawing of its own. Knows no records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import style
from analysis.drawing.selection import Labels

_PANEL_SIZE = {1: (8.5, 3.6), 2: (5.0, 3.4), 3: (4.0, 2.5)}  # inches, by panels beside each other


@dataclass(frozen=True)
class Panel:
    """One pair of axes; `name` is its value in the rows' column `panel`. Values `in_percent` are fractions."""

    name: str
    title: str  # with the unit
    in_percent: bool = False
    log: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines of cells over the progress of training.

    rows: columns panel, cell, epoch, those of `axes`, mean, sd (NaN for one seed) and num (seeds), sorted by panel, cell and epoch.
    axes: what a line may be drawn against, with its title; paper has the first.
    columns: panels beside each other on paper.
    """

    title: str
    panels: tuple[Panel, ...]
    labels: Labels
    axes: Mapping[str, str]
    rows: pd.DataFrame
    columns: int = 2


@style.styled()
def draw_chart(chart: Chart) -> Figure:
    """Every panel, its lines in the colours of their cells."""
    columns = min(chart.columns, len(chart.panels))
    rows = -(-len(chart.panels) // columns)
    width, height = _PANEL_SIZE[columns]
    figure = style.new_cell_figure(width * columns, 0.3 + height * rows, chart.title, chart.labels)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    x, x_title = next(iter(chart.axes.items()))
    for axes, panel in zip(grid, chart.panels, strict=False):
        of_panel = chart.rows[chart.rows["panel"] == panel.name]
        for index, label in chart.labels:
            _draw_line(axes, of_panel[of_panel["cell"] == index], x, panel, label, index)
        axes.set_title(panel.title)
        axes.set_xlabel(x_title)
        _finish(axes, panel)
    for axes in grid[len(chart.panels) :]:
        axes.remove()
    return figure


def _draw_line(axes: Axes, rows: pd.DataFrame, x: str, panel: Panel, label: str, cell: int) -> None:
    look = style.cell_style(cell)
    rows = rows[rows["mean"] > 0] if panel.log else rows
    if rows.empty:
        return
    last = rows.iloc[-1]
    told = f"{label}: {_tell(last['mean'], panel)}{_tell_spread(last, panel)} at epoch {int(last['epoch'])}"
    style.plot(axes, rows[x], rows["mean"], told, cell=cell, markevery=style.marker_every(len(rows)), **look)
    if rows["sd"].notna().any():
        low = rows["mean"] - rows["sd"]
        lowest = np.maximum(low, rows["mean"] / 10) if panel.log else low
        band = axes.fill_between(
            rows[x], lowest, rows["mean"] + rows["sd"], color=look["color"], alpha=0.18, linewidth=0
        )
        style.set_hover(band, cell=cell)


def _tell(value: float, panel: Panel) -> str:
    return f"{100 * value:.2f} %" if panel.in_percent else f"{value:.4g}"


def _tell_spread(row: pd.Series, panel: Panel) -> str:
    return f" ± {_tell(row['sd'], panel)}" if math.isfinite(row["sd"]) else ""


def _finish(axes: Axes, panel: Panel) -> None:
    style.use_epoch_axis(axes)
    if panel.log:
        style.use_log_axis(axes, "y")
    elif panel.in_percent:
        style.use_percent_axis(axes)
    else:
        style.use_plain_axis(axes, "y")
