"""One pair of cells in the primary metric: every seed as a point, the differences, their interval, and the margin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison.best import rank_cells
from analysis.comparison.pairs import compare_primary, find_primary, values_by_seed
from analysis.comparison.words import describe_pair
from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.selection import require
from analysis.drawing.style import (
    INK,
    LIGHT_BAR,
    MUTED,
    NothingToDraw,
    cell_style,
    new_figure,
    set_hover,
    shown,
    styled,
)
from analysis.drawing.style import format_value as axis_value
from analysis.metrics import Metric
from analysis.records.frames import Study

MOST_PAIRS = 6


@dataclass(frozen=True)
class PairOfCells:
    """`row` is that of `compare_cells`; `seeds` has columns seed, a, b: the values of the seeds that both completed."""

    metric: Metric
    row: dict[str, object]
    seeds: pd.DataFrame
    places: tuple[int, int]  # of the two cells in the study


def list_shown(study: Study) -> list[int]:
    """The rows of `compare_primary` that have a picture: all pairs of few cells, else those with the best cell."""
    pairs = compare_primary(study)
    if len(pairs) > MOST_PAIRS:
        best = study.derive(rank_cells)["cell_id"].iloc[0]
        pairs = pairs[(pairs["cell_a"] == best) | (pairs["cell_b"] == best)]
    return list(pairs.index[:MOST_PAIRS])


def build_pair(study: Study, number: int) -> PairOfCells:
    """The pair in row `number` of `compare_primary`."""
    metric = find_primary(study)
    row = {str(name): value for name, value in compare_primary(study).loc[number].items()}
    values, places = values_by_seed(study, metric.name), list(study.cells)
    a, b = str(row["cell_a"]), str(row["cell_b"])
    seeds = pd.DataFrame(
        {"seed": values.columns, "a": values.loc[a].to_numpy(), "b": values.loc[b].to_numpy()}
    ).dropna()
    require(seeds, "no seed that both completed")
    return PairOfCells(metric, row, seeds.reset_index(drop=True), (places.index(a), places.index(b)))


@styled()
def draw_pair(data: PairOfCells) -> Figure:
    """Left the seeds of both cells, joined; right their differences with the interval and the margin."""
    scale = 100.0 if data.metric.in_percent else 1.0
    labels = [str(data.row["label_a"]), str(data.row["label_b"])]
    figure = new_figure(7.6, 3.2, f"{shown(labels[0], 40)} against {shown(labels[1], 40)}")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.25))
    for seed in data.seeds.to_dict("records"):
        (line,) = left.plot([0, 1], [scale * seed["a"], scale * seed["b"]], color=MUTED, linewidth=0.8)
        set_hover(line, f"seed {seed['seed']}")
    for side, name, place in zip((0, 1), "ab", data.places, strict=True):
        style = cell_style(place)
        left.plot(
            [side] * len(data.seeds),
            scale * data.seeds[name],
            linestyle="none",
            color=style["color"],
            marker=style["marker"],
        )
    left.set_xticks([0, 1], [shown(label, 22) for label in labels])
    left.set_xlim(-0.4, 1.4)
    left.set_title(f"every seed: {data.metric.title}{', %' if data.metric.in_percent else ''}")
    differences = scale * (data.seeds["a"] - data.seeds["b"]).to_numpy()
    mean, low, high, margin = (scale * float(data.row[name]) for name in ("difference", "low", "high", "margin"))  # type: ignore[arg-type]
    if math.isfinite(margin):
        right.axvspan(-margin, margin, color=LIGHT_BAR, alpha=0.45, linewidth=0)
    right.axvline(0, color=MUTED, linewidth=0.8)
    right.plot(differences, np.linspace(0.35, 0.65, len(differences)) if len(differences) > 1 else [0.5], linestyle="none",
               marker="o", color=MUTED)  # fmt: skip
    if math.isfinite(low):
        right.plot([low, high], [0.18, 0.18], color=INK, linewidth=2.4, solid_capstyle="butt")
    right.plot([mean], [0.18], marker="D", color=INK, markersize=6)
    right.set_ylim(0, 0.85)
    right.set_yticks([])
    right.xaxis.set_major_formatter(lambda value, _: axis_value(value))
    right.set_title(f"{shown(labels[0], 22)} less {shown(labels[1], 22)}{', points' if data.metric.in_percent else ''}")
    return figure


def _pairs(study: Study) -> list[Subject]:
    return [Subject(f"-pair{number}", row=row) for number, row in enumerate(list_shown(study), 1)]


def _the_pair(study: Study) -> list[Subject]:
    """None where no seed of both completed, which the answer above it has said already."""
    try:
        return [subject for subject in _pairs(study) if build_pair(study, subject.row)]
    except NothingToDraw:
        return []


def _build(study: Study, subject: Subject) -> PairOfCells:
    return build_pair(study, subject.row)


def _caption(study: Study, subject: Subject) -> str:
    try:
        found = build_pair(study, subject.row)
    except NothingToDraw:
        return "Two cells."
    return (
        f"{describe_pair(found.row, found.metric)} Diamond and bar: mean difference and the interval that decides; shaded: the margin "
        "within which cells count as equivalent; grey points: the seeds."
    )


def _kind(section: str, *, two_cells: bool) -> FigureKind[PairOfCells]:
    """With two cells the pair is the answer and stands at the head of the page."""
    return FigureKind(
        name="pair" if two_cells else "pairs", section=section, position=20, title="Pairs of cells",
        caption=_caption,
        subjects=lambda study: (_the_pair if two_cells else _pairs)(study) if (len(study.cells) == 2) == two_cells else [],
        build=_build, draw=lambda data, subject: draw_pair(data),
    )  # fmt: skip


THE_PAIR = _kind("verdict", two_cells=True)
ALL_PAIRS = _kind("comparison", two_cells=False)
