"""The architecture diagram, drawn from the recorded modules: a column per layer group, a frame per residual block.

A module `NAME.M.*` belongs to block `NAME.M`, and to its shortcut where its name holds downsample or shortcut; any
other module stands on its own in the column of its group. Three or more blocks or columns that are the same are drawn once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from analysis.drawing.declaration import FigureKind, each_network
from analysis.drawing.selection import require
from analysis.drawing.style import INK, MUTED, PANEL, PAPER, group_colors, new_figure, set_hover, shown, styled

_BLOCK = re.compile(r"^(.*?\.\d+)\.")
_FEWEST_ALIKE = 3
_BOX_WIDTH, _BOX_HEIGHT, _STEP, _SIDE_WIDTH, _GUTTER = 1.28, 0.25, 0.36, 0.95, 0.42  # inches


@dataclass(frozen=True)
class Operation:
    """One module as the diagram names it."""

    layer: str
    kind: str
    label: str
    num_parameters: int


@dataclass(frozen=True)
class Block:
    """Operations in a row; a residual block has a name, a skip connection and perhaps operations on it."""

    name: str
    operations: tuple[Operation, ...]
    shortcut: tuple[Operation, ...] = ()
    times: int = 1

    @property
    def look(self) -> tuple[Any, ...]:
        """What is the same of blocks that look the same."""
        return tuple((one.label, one.num_parameters) for one in (*self.operations, *self.shortcut)), len(self.shortcut)

    @property
    def num_parameters(self) -> int:
        return sum(operation.num_parameters for operation in (*self.operations, *self.shortcut))

    @property
    def has_skip(self) -> bool:
        return any(operation.kind == "add" for operation in self.operations)


@dataclass(frozen=True)
class Column:
    """The blocks of one layer group and the shape of one image behind them."""

    group: str
    output_shape: str
    blocks: tuple[Block, ...]
    times: int = 1

    @property
    def look(self) -> tuple[Any, ...]:
        """What is the same of columns that look the same."""
        return self.output_shape, tuple(block.look for block in self.blocks)


@dataclass(frozen=True)
class Architecture:
    """The columns from the input to the output."""

    columns: tuple[Column, ...]
    input_shape: str
    num_parameters: int
    network: str


Part = TypeVar("Part", Block, Column)


def build_architecture(model: pd.DataFrame, network: str) -> Architecture:
    """The diagram's content for a network."""
    own = model[model["model"] == network].sort_values("position")
    require(own, f"the network of {network} was not recorded")
    columns = []
    for group, rows in groupby(own.itertuples(), key=lambda row: str(row.group)):
        members = list(rows)
        columns.append(Column(group, str(members[-1].output_shape), tuple(_merge(list(_blocks(members))))))
    return Architecture(
        tuple(_merge(columns)), str(own["input_shape"].iloc[0]), int(own["num_parameters"].fillna(0).sum()), network
    )


def _merge(parts: list[Part]) -> list[Part]:
    """Of neighbours that look the same, where they are many, the first one with their number."""
    merged = []
    for _, alike in groupby(parts, key=lambda part: part.look):
        members = list(alike)
        many = len(members) >= _FEWEST_ALIKE
        merged += [replace(members[0], times=len(members))] if many else members
    return merged


def _blocks(rows: Sequence[Any]) -> Iterator[Block]:
    for name, members in groupby(rows, key=lambda row: _block_name(str(row.layer))):
        main: list[Operation] = []
        side: list[Operation] = []
        own = list(members)
        sums_left = sum(str(row.kind) == "add" for row in own)
        for row in own:
            is_shortcut = bool(name) and re.search("downsample|shortcut", str(row.layer))
            (side if is_shortcut else main).append(_operation(row))
            sums_left -= str(row.kind) == "add"
            if str(row.kind) == "add" and sums_left:  # a block of several sums has as many frames
                yield Block(name, tuple(main), tuple(side))
                main, side = [], []
        yield Block(name, tuple(main), tuple(side))


def _block_name(layer: str) -> str:
    found = _BLOCK.match(layer)
    return found.group(1) if found else ""


def _operation(row: Any) -> Operation:
    values = {name: getattr(row, name) for name in ("layer", "kind", "input_shape", "output_shape", "num_parameters")}
    parameters = 0 if pd.isna(values["num_parameters"]) else int(values["num_parameters"])
    label = operation_label(str(values["kind"]), str(values["input_shape"]), str(values["output_shape"]), parameters)
    return Operation(str(values["layer"]), str(values["kind"]), label, parameters)


def operation_label(kind: str, input_shape: str, output_shape: str, num_parameters: int) -> str:
    """What a box says, e.g. `3×3 conv 128, /2`: kernel and stride follow from the shapes and the parameters."""
    before, after = (re.findall(r"\d+", shape) for shape in (input_shape, output_shape))
    if kind == "conv" and len(before) == len(after) == 3:
        kernel = math.isqrt(num_parameters // max(1, int(before[0]) * int(after[0])))
        stride = int(before[1]) // max(1, int(after[1]))
        return f"{kernel}×{kernel} conv {after[0]}" + (f", /{stride}" if stride > 1 else "")
    if kind == "linear" and before and after:
        features = -1 if len(after) == 2 else 0  # of tokens each
        return f"linear {before[features]} → {after[features]}"
    return _LABELS.get(kind, kind)


_LABELS = {
    "bn": "batch norm", "ln": "layer norm", "gn": "group norm", "relu": "ReLU", "gelu": "GELU", "add": "+",
    "pool": "average pool", "maxpool2d": "max pool",
}  # fmt: skip


@styled()
def draw_architecture(data: Architecture) -> Figure:
    """Boxes for operations, frames for blocks, arrows for the data."""
    widths = [_column_width(column) for column in data.columns]
    heights = [_column_height(column) for column in data.columns]
    title = f"Architecture, {data.network}: {data.num_parameters:,} parameters"
    width_in, height_in = max(sum(widths), 0.095 * len(title)), max(heights) + 1.0  # room for the title, too
    figure = new_figure(width_in, height_in + 0.4, title)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, width_in)
    axes.set_ylim(height_in, 0)
    colors = group_colors(column.group for column in data.columns)
    left = _GUTTER / 2
    previous: tuple[float, float] | None = None
    for column, width in zip(data.columns, widths, strict=True):
        center = left + _BOX_WIDTH / 2 + 0.1
        color = colors[column.group]
        _draw_heading(axes, center, column, color, data.input_shape if previous is None else None)
        if previous is not None:
            _draw_turn(axes, previous, center, left)
        previous = (center, _draw_column(axes, column, center, color, top=0.85))
        left += width
    return figure


def _column_width(column: Column) -> float:
    side = (
        _SIDE_WIDTH if any(b.shortcut for b in column.blocks) else 0.3 if any(b.has_skip for b in column.blocks) else 0
    )
    return _BOX_WIDTH + 0.2 + side + _GUTTER


def _column_height(column: Column) -> float:
    return sum(len(block.operations) * _STEP + (0.42 if block.has_skip else 0.0) for block in column.blocks)


def _draw_heading(axes: Axes, center: float, column: Column, color: str, input_shape: str | None) -> None:
    name = column.group if column.times == 1 else f"{shown(column.group, 14)} and {column.times - 1} more"
    axes.text(center, 0.12, shown(name, 24), ha="center", va="center", weight="bold", color=color, fontsize=10.5)
    shape = column.output_shape.replace("x", "×")
    shape = f"{input_shape.replace('x', '×')} → {shape}" if input_shape else f"→ {shape}"
    axes.text(center, 0.33, shown(shape, 32), ha="center", va="center", fontsize=7.5, color=MUTED)


def _draw_column(axes: Axes, column: Column, center: float, color: str, top: float) -> float:
    """Draw the blocks downwards from `top`; the y where the column ends."""
    y, bottom = top, top - 0.3
    for block in column.blocks:
        y += 0.24 if block.has_skip else 0.0
        _draw_arrow(axes, [(center, bottom), (center, y - _BOX_HEIGHT / 2)])
        y = _draw_block(axes, block, center, y, color)
        bottom = y - _STEP + _BOX_HEIGHT / 2
        y += 0.18 if block.has_skip else 0.0
    return bottom


def _draw_block(axes: Axes, block: Block, center: float, top: float, color: str) -> float:
    y = top
    places = {}
    if block.has_skip:
        _draw_frame(axes, block, center, top)
    for number, operation in enumerate(block.operations):
        if number:
            _draw_arrow(axes, [(center, y - _STEP + _BOX_HEIGHT / 2), (center, y - _BOX_HEIGHT / 2)])
        _draw_box(axes, operation, center, y, _BOX_WIDTH, color)
        places[operation.kind] = y
        y += _STEP
    if block.has_skip:
        _draw_skip(axes, block, center, top, places["add"], color)
    return y


def _draw_frame(axes: Axes, block: Block, center: float, top: float) -> None:
    side = _SIDE_WIDTH if block.shortcut else 0.3
    left = center - _BOX_WIDTH / 2 - 0.08
    box = FancyBboxPatch(
        (left, top - 0.34), _BOX_WIDTH + 0.16 + side, len(block.operations) * _STEP + 0.17,
        boxstyle="round,pad=0,rounding_size=0.06", facecolor=PANEL, edgecolor=MUTED, linewidth=0.6, linestyle=(0, (3, 2)),
        zorder=0.5,
    )  # fmt: skip
    axes.add_patch(box)
    small: dict[str, Any] = {"va": "center", "fontsize": 6.6, "color": MUTED}
    times = f", {block.times} alike" if block.times > 1 else ""
    axes.text(center - 0.06, top - 0.25, shown(block.name, 14), ha="right", **small)
    axes.text(center + 0.06, top - 0.25, f"{block.num_parameters:,}{times}", ha="left", **small)


def _draw_skip(axes: Axes, block: Block, center: float, top: float, bottom: float, color: str) -> None:
    """From the block's input around the right side into its addition, through the projection where there is one."""
    start, edge, end = (center, top - 0.165), center + _BOX_WIDTH / 2, center + _BOX_HEIGHT / 2
    if not block.shortcut:
        x = edge + 0.2
        _draw_arrow(axes, [start, (x, start[1]), (x, bottom), (end, bottom)])
        return
    x = edge + 0.05 + _SIDE_WIDTH / 2
    middle = (top + bottom) / 2
    first = middle - _STEP * (len(block.shortcut) - 1) / 2
    _draw_arrow(axes, [start, (x, start[1]), (x, first - _BOX_HEIGHT / 2)])
    for number, operation in enumerate(block.shortcut):
        y = first + number * _STEP
        if number:
            _draw_arrow(axes, [(x, y - _STEP + _BOX_HEIGHT / 2), (x, y - _BOX_HEIGHT / 2)])
        _draw_box(axes, operation, x, y, _SIDE_WIDTH - 0.04, color)
    last = first + (len(block.shortcut) - 1) * _STEP
    _draw_arrow(axes, [(x, last + _BOX_HEIGHT / 2), (x, bottom), (end, bottom)])


def _draw_box(axes: Axes, operation: Operation, x: float, y: float, width: float, color: str) -> None:
    has_weights = operation.kind in ("conv", "linear")
    if operation.kind == "add":
        width = _BOX_HEIGHT
    box = FancyBboxPatch(
        (x - width / 2, y - _BOX_HEIGHT / 2), width, _BOX_HEIGHT,
        boxstyle=f"round,pad=0,rounding_size={0.12 if operation.kind == 'add' else 0.05}",
        facecolor=color if has_weights else PAPER, edgecolor=color, linewidth=1.0,
    )  # fmt: skip
    axes.add_patch(box)
    set_hover(box, f"{operation.layer}: {operation.num_parameters:,} parameters")
    small = width < _BOX_WIDTH and operation.kind != "add"
    axes.text(
        x, y, shown(operation.label, 24), ha="center", va="center_baseline", fontsize=6.4 if small else 7.6,
        color=PAPER if has_weights else INK,
    )  # fmt: skip


def _draw_turn(axes: Axes, start: tuple[float, float], center: float, left: float) -> None:
    """From the end of one column up through the gutter to the head of the next."""
    x = left - _GUTTER / 2 + 0.02
    bottom, top = start[1] + 0.3, 0.55
    points = [start, (start[0], bottom), (x, bottom), (x, top), (center, top), (center, top + 0.02)]
    axes.add_patch(FancyArrowPatch(path=Path(points), arrowstyle="-", color=MUTED, linewidth=0.9))


def _draw_arrow(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    axes.add_patch(
        FancyArrowPatch(path=Path(list(points)), arrowstyle="-|>,head_length=2.5,head_width=1.5", color=MUTED,
                        linewidth=0.9, shrinkA=0, shrinkB=0, mutation_scale=1.4)
    )  # fmt: skip


FIGURE = FigureKind(
    name="architecture", section="data", position=20, title=lambda subject: f"Architecture, {subject.about}",
    caption=lambda study, subject: f"{'' if subject.network == subject.about else f'{subject.network}. '}Boxes are modules, in the "
    "order of execution; a number on a frame counts the parameters of the block, the line at its right is its skip connection.",
    subjects=each_network, build=lambda study, subject: replace(build_architecture(study.model, subject.network), network=subject.about),
    draw=lambda data, subject: draw_architecture(data),
)  # fmt: skip
