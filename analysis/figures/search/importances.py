"""Importances of hyperparameters and of early training dynamics, each with its spread and with what chance reaches."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind
from analysis.drawing.selection import require
from analysis.search.dynamics import QUANTITIES
from analysis.search.history import Search, load_search
from analysis.search.importances import load_importances


@dataclass(frozen=True)
class SearchImportances:
    """`panels`: a title and rows with quantity, importance, low, high, chance, above_chance, most important first."""

    panels: tuple[tuple[str, pd.DataFrame], ...]


def build_search_importances(search: Search) -> SearchImportances:
    """The rows of the table search_importances, by kind and target."""
    rows = require(load_importances(search), "too few completed trials for importances, or nothing that varies")
    panels = []
    for (kind, target), own in rows.groupby(["kind", "target"], sort=False):
        trials = int(own["trials"].iloc[0])
        named = own.assign(quantity=[QUANTITIES.get(name, name.replace("_", " ")) for name in own["quantity"]])
        panels.append((f"{str(kind).capitalize()}: {target}, {trials} trials", named.reset_index(drop=True)))
    return SearchImportances(tuple(panels))


@style.styled()
def draw_search_importances(data: SearchImportances) -> Figure:
    """A panel per kind and target; bars that chance reaches as well are pale."""
    heights = [0.55 + 0.32 * len(rows) for _, rows in data.panels]
    figure = style.new_figure(8.5, 1.3 + sum(heights), "Importances: associations, not effects")
    grid = figure.subplots(len(data.panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (title, rows) in zip(grid, data.panels, strict=True):
        for place, row in enumerate(rows.to_dict("records")):
            color = style.DARK_BAR if row["above_chance"] else style.LIGHT_BAR
            (bar,) = axes.barh([place], [row["importance"]], height=0.62, color=color)
            style.set_hover(bar, f"{row['quantity']}: {style.format_value(round(row['importance'], 3))}")
            axes.plot([row["low"], row["high"]], [place, place], color=style.INK, linewidth=1.1)
            axes.plot([row["chance"]] * 2, [place - 0.36, place + 0.36], color="#c84e00", linewidth=1.6)
        style.name_rows(axes, list(rows["quantity"]))
        axes.set_title(title)
        axes.set_xlim(0, 1)
        style.use_plain_axis(axes, "x")
    grid[-1].set_xlabel("share of the forest's variance")
    handles = [
        Patch(color=style.DARK_BAR, label="more than chance"), Patch(color=style.LIGHT_BAR, label="chance reaches it, too"),
        Line2D([], [], color=style.INK, label="90 % over resampled trials"),
        Line2D([], [], color="#c84e00", label="95 % point by chance"),
    ]  # fmt: skip
    style.add_legend(figure, handles, 4)
    return figure


FIGURE = FigureKind(
    name="search_importances", section="search", position=30, title="Importances",
    caption="fANOVA: the share of a random forest's variance that a quantity explains by itself. Thin lines: 90 % over resampled "
    "trials, widened to the end of the bar where they miss it; strokes across: what it reaches by chance, with the "
    "objective shuffled. Associations among the trials of one search, not effects.",
    build=lambda study, subject: build_search_importances(load_search(study)),
    draw=lambda data, subject: draw_search_importances(data),
)  # fmt: skip
