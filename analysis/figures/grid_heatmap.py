"""The grid as a map of its cells: mean of the primary metric with its interval, and which cells may be the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.comparison.best import rank_cells, rank_cells_by
from analysis.comparison.pairs import find_primary, values_by_seed
from analysis.drawing.declaration import FigureKind, Subject, whole_study
from analysis.drawing.selection import require
from analysis.drawing.style import DARK_BAR, INK, PAPER, NothingToDraw, new_figure, set_hover, shown, styled
from analysis.metrics import Metric
from analysis.records.factors import field_title
from analysis.records.frames import Study
from analysis.results.formats import format_cell, format_value
from analysis.results.result_table import TableColumn
from analysis.statistics import mean_interval

MOST_CELLS = 100
_RANKED = ("seeds", "may_be_best", "behind", "behind_low", "behind_high")


@dataclass(frozen=True)
class GridMap:
    """`cells` has columns row, column (of the map), label, mean, low, high (each by itself 95 %), seeds, may_be_best, share, and
    behind [behind_low, behind_high]: its mean less the best of the others' (`rank_cells_by`), in the metric's unit.

    `share` is the cell's place between the worst mean (0) and the best (1); 0.5 where all are alike or none is better.
    """

    metric: Metric
    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str


def build_grid_map(study: Study, metric: Metric | None = None) -> GridMap:
    """The cells by the factor with the most levels (columns) and all the others (rows); `metric` None: the primary one."""
    metric, factors = metric or find_primary(study), list(study.info.factors)
    if len(study.cells) > MOST_CELLS:
        raise NothingToDraw(f"more than {MOST_CELLS} cells; the table of the best cells holds them all")
    levels = {f: sorted({cell.config[f] for cell in study.info.cells}, key=_order) for f in factors}
    across = max(factors, key=lambda factor: len(levels[factor]), default="")
    down = [factor for factor in factors if factor != across]
    names = {cell.cell_id: ", ".join(_text(cell.config[f]) for f in down) for cell in study.info.cells}
    order = sorted(study.info.cells, key=lambda cell: [_order(cell.config[f]) for f in down])
    rows = tuple(dict.fromkeys(names[cell.cell_id] for cell in order))
    columns = tuple(_text(level) for level in levels.get(across, [""]))
    values, ranked = (
        values_by_seed(study, metric.name),
        (study.derive(rank_cells) if metric == find_primary(study) else rank_cells_by(study, metric))
        .set_index("cell_id")
        .rename(columns={"low": "behind_low", "high": "behind_high"})[list(_RANKED)]
        .to_dict("index"),
    )
    found = []
    for cell_id, cell in study.cells.items():
        mean, low, high = mean_interval(values.loc[cell_id].to_numpy())
        found.append((rows.index(names[cell_id]), columns.index(_text(cell.config[across]) if across else ""), cell.label, mean, low, high,
                      *ranked[cell_id].values()))  # fmt: skip
    frame = pd.DataFrame(found, columns=["row", "column", "label", "mean", "low", "high", *_RANKED])
    known = require(frame[frame["mean"].notna()], "no trial has completed yet")["mean"]
    share = (frame["mean"] - known.min()) / (known.max() - known.min() or math.nan)
    frame["share"] = {"higher": share, "lower": 1 - share, "": share * math.nan}[metric.better]
    frame["share"] = frame["share"].fillna(0.5)
    return GridMap(metric, frame, rows, columns, ", ".join(map(field_title, down)), field_title(across))


@styled()
def draw_grid_map(data: GridMap) -> Figure:
    """A field per cell, darker where the metric is better; a frame around those that may be the best."""
    wide, high = len(data.columns), len(data.rows)
    figure = new_figure(2.2 + 1.25 * wide, 1.5 + 0.62 * high, f"{data.metric.title.capitalize()} over the grid")
    axes = figure.subplots()
    known = data.cells[data.cells["mean"].notna()]
    for cell in known.to_dict("records"):
        share = cell["share"]
        corner = (cell["column"] - 0.5, cell["row"] - 0.5)
        field = axes.add_patch(Rectangle(corner, 1, 1, facecolor=DARK_BAR, alpha=0.08 + 0.84 * share, edgecolor=PAPER))
        set_hover(field, f"{cell['label']}: {format_mean(data.metric, cell)}{format_behind(data.metric, cell)}")
        color = PAPER if share > 0.5 else INK
        axes.text(cell["column"], cell["row"] - 0.12, format_mean(data.metric, cell, interval=False), ha="center", va="center",
                  color=color, fontsize=10, fontweight="bold")  # fmt: skip
        axes.text(cell["column"], cell["row"] + 0.24, format_interval(data.metric, cell), ha="center", va="center",
                  color=color, fontsize=7.5)  # fmt: skip
        if cell["may_be_best"]:
            frame = (cell["column"] - 0.47, cell["row"] - 0.45)
            axes.add_patch(Rectangle(frame, 0.94, 0.9, fill=False, edgecolor=INK, linewidth=1.8))
    axes.set_xticks(range(wide), [shown(name) for name in data.columns])
    axes.set_yticks(range(high), [shown(name) for name in data.rows])
    axes.set_xlim(-0.5, wide - 0.5)
    axes.set_ylim(high - 0.5, -0.5)
    axes.set_xlabel(data.column_title)
    axes.set_ylabel(data.row_title)
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def format_interval(metric: Metric, cell: Mapping[Any, Any]) -> str:
    """Half of a cell's interval and its number of seeds."""
    if not math.isfinite(cell["low"]):
        return f"n = {cell['seeds']}"
    half = (cell["high"] - cell["low"]) / 2
    return f"± {format_value(half, metric.kind, half)}, n = {cell['seeds']}"


def format_mean(metric: Metric, cell: Mapping[Any, Any], *, interval: bool = True) -> str:
    """A cell's mean, with `format_interval` behind it."""
    half = (cell["high"] - cell["low"]) / 2
    text = format_value(cell["mean"], metric.kind, half) + (" %" if metric.in_percent else "")
    return f"{text} {format_interval(metric, cell)}" if interval else text


def format_behind(metric: Metric, cell: Mapping[Any, Any]) -> str:
    """How far a cell is from the best other one, with the interval that decides; empty where nothing is known of it."""
    if not (metric.better and math.isfinite(cell["behind"])):
        return ""
    scale, unit = (100.0, " points") if metric.in_percent else (1.0, "")
    values = {name: scale * cell[name] for name in ("behind", "behind_low", "behind_high")}
    told = format_cell(values, TableColumn("behind", "", "number", low="behind_low", high="behind_high"))
    return f"; less the best other: {told}{unit}"


def _order(value: object) -> tuple[int, float, str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))  # type: ignore[arg-type]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _more_than_two_cells(study: Study) -> Iterable[Subject]:
    return whole_study(study) if len(study.cells) > 2 and study.info.factors else []


FIGURE = FigureKind(
    name="grid_heatmap", section="verdict", position=10, title="The grid",
    caption="Mean over seeds ± half of its own 95 % interval, and the number of seeds; the bluer, the better. Framed: may be the best.",
    subjects=_more_than_two_cells,
    build=lambda study, subject: build_grid_map(study),
    draw=lambda data, subject: draw_grid_map(data),
)  # fmt: skip
