"""FLOPs by layer: the forward pass of one image in the published convention, or another where that is not defined, for every
module that counts.

Written down with its convention, because the same network has other totals in other conventions (worksheet section 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, each_network
from analysis.drawing.selection import MAX_LAYERS, require
from analysis.records.frames import shown_convention

_CONVENTIONS = {
    "flops_worksheet": "worksheet's convention: 1 per multiply-accumulate, 2 per batch-norm element",
    "flops_two_per_mac": "2 per multiply-accumulate",
}


@dataclass(frozen=True)
class LayerFlops:
    """`rows` has columns layer, group, kind, flops, share, in order of execution; `total` is FLOP per image."""

    rows: pd.DataFrame
    total: int
    network: str  # what it is called
    convention: str


def build_layer_flops(model: pd.DataFrame, network: str) -> LayerFlops:
    """FLOPs of a network; modules that count nothing are left out, and of more than MAX_LAYERS the smallest ones."""
    own = model[model["model"] == network].sort_values("position")
    convention = shown_convention(own)
    counted = own[own[convention].fillna(0) > 0]
    require(counted, f"the FLOPs of the network of {network} were not recorded")
    total = int(counted[convention].sum())
    rows = counted.assign(flops=counted[convention].astype("int64"), share=counted[convention] / total)
    rows = rows.loc[rows["flops"].nlargest(MAX_LAYERS).index].sort_values("position")
    rows = rows[["layer", "group", "kind", "flops", "share"]].reset_index(drop=True)
    return LayerFlops(rows, total, network, convention)


@style.styled()
def draw_layer_flops(data: LayerFlops) -> Figure:
    """One bar per module with its share of the total."""
    rows = data.rows
    figure = style.new_figure(9, 1.5 + 0.17 * len(rows), f"FLOPs by layer, {data.network}: {data.total:,} per image")
    axes = figure.subplots()
    colors = style.group_colors(rows["group"])
    mega = rows["flops"] / 1e6
    hovers = [f"{row.layer}: {row.flops:,} FLOP, {row.share:.2%}" for row in rows.itertuples()]
    style.draw_rows(axes, mega.tolist(), [colors[str(group)] for group in rows["group"]], hovers)
    for position, (value, share) in enumerate(zip(mega, rows["share"], strict=True)):
        axes.text(value + mega.max() * 0.008, position, f"{share:.2%}", va="center", fontsize=7, in_layout=False)
    style.name_rows(axes, list(rows["layer"]))
    axes.set_xlim(0, mega.max() * 1.09)
    style.use_plain_axis(axes, "x")
    axes.set_xlabel(f"MFLOP per image, forward pass; {_CONVENTIONS[data.convention]}")
    style.add_legend(figure, style.group_handles(rows["group"]), 6)
    return figure


FIGURE = FigureKind(
    name="flops_by_layer", section="flops", position=10, title=lambda subject: f"FLOPs by layer, {subject.about}",
    caption=f"Forward pass of one image; of more than {MAX_LAYERS} modules the largest. The worksheet's convention: 1 per "
    "multiply-accumulate, 2 per batch-norm element, 1 per bias of the linear layer, 2 per output of the average pool; it is not defined for other layers.",
    subjects=each_network, build=lambda study, subject: replace(build_layer_flops(study.model, subject.network), network=subject.about),
    draw=lambda data, subject: draw_layer_flops(data),
)  # fmt: skip
