"""FLOPs by layer: the forward pass of one image in the published convention, for every module that counts.

Written down with its convention, because the same network has other totals in other conventions (worksheet section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, each_width
from analysis.drawing.selection import require


@dataclass(frozen=True)
class LayerFlops:
    """`rows` has columns layer, group, kind, flops, share, in order of execution; `total` is FLOP per image."""

    rows: pd.DataFrame
    total: int
    width: int


def build_layer_flops(model: pd.DataFrame, width: int) -> LayerFlops:
    """FLOPs in the worksheet's convention of the model of this width; modules that count nothing are left out."""
    own = model[model["width"] == width].sort_values("position")
    counted = own[own["flops_worksheet"].fillna(0) > 0]
    require(counted, f"the FLOPs of the model of width {width} were not recorded")
    total = int(counted["flops_worksheet"].sum())
    rows = counted.assign(flops=counted["flops_worksheet"].astype("int64"), share=counted["flops_worksheet"] / total)
    return LayerFlops(rows[["layer", "group", "kind", "flops", "share"]].reset_index(drop=True), total, width)


@style.styled()
def draw_layer_flops(data: LayerFlops) -> Figure:
    """One bar per module with its share of the total."""
    rows = data.rows
    figure = style.new_figure(
        9, 1.5 + 0.17 * len(rows), f"FLOPs by layer, width {data.width}: {data.total:,} per image"
    )
    axes = figure.subplots()
    mega = rows["flops"] / 1e6
    hovers = [f"{row.layer}: {row.flops:,} FLOP, {row.share:.2%}" for row in rows.itertuples()]
    style.draw_rows(axes, mega.tolist(), [style.group_color(str(group)) for group in rows["group"]], hovers)
    for position, (value, share) in enumerate(zip(mega, rows["share"], strict=True)):
        axes.text(value + mega.max() * 0.008, position, f"{share:.2%}", va="center", fontsize=7, in_layout=False)
    style.name_rows(axes, list(rows["layer"]))
    axes.set_xlim(0, mega.max() * 1.09)
    style.use_plain_axis(axes, "x")
    axes.set_xlabel(
        "MFLOP per image, forward pass; worksheet's convention: 1 per multiply-accumulate, 2 per batch-norm element"
    )
    style.add_legend(figure, style.group_handles(rows["group"]), 6)
    return figure


FIGURE = FigureKind(
    name="flops_by_layer", section="flops", position=10, title=lambda subject: f"FLOPs by layer, {subject.about}",
    caption="Forward pass of one image in the worksheet's convention: 1 per multiply-accumulate, 2 per batch-norm element, "
    "1 per bias of the linear layer, 2 per output of the average pool.",
    subjects=each_width, build=lambda study, subject: build_layer_flops(study.model, subject.width),
    draw=lambda data, subject: draw_layer_flops(data),
)  # fmt: skip
