"""Loss barriers between cells: how far the loss rises on the straight line between the final weights of their trials of one seed.

Such trials share initialisation and order of images. A field per pair of cells: the mean over the seeds, in nats; `study barriers`
measures them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.drawing import style
from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.selection import Labels, require, shown_cells
from analysis.records.frames import Study
from analysis.results.result_table import TableColumn


@dataclass(frozen=True)
class Barriers:
    """`rows` has columns a, b (indices of cells, a before b), cell_a, cell_b (labels), barrier, lowest, highest (nats), seeds; images of the loss."""

    rows: pd.DataFrame
    labels: Labels
    images: int


def build_barriers(study: Study) -> Barriers:
    """Of the shown cells. Errors: NothingToDraw."""
    found = study.folder.read_records("barriers").to_pandas()
    cells = shown_cells(study)
    labels = {cell.index: cell.label for cell in cells}
    place = {trial: cell.index for cell in cells for trial in cell.trial_ids}
    ends = pd.DataFrame({"a": found["first"].map(place), "b": found["second"].map(place)})
    frame = found.assign(a=ends.min(axis=1), b=ends.max(axis=1))[ends.notna().all(axis=1)]
    grouped = frame.groupby(["a", "b"])["barrier"]
    rows = grouped.agg(barrier="mean", lowest="min", highest="max", seeds="count").reset_index()
    rows = rows.astype({"a": int, "b": int})
    rows = rows.assign(cell_a=rows["a"].map(labels), cell_b=rows["b"].map(labels))
    require(rows, "`study barriers` has not measured any")
    drawn = sorted({*rows["a"], *rows["b"]})
    return Barriers(rows, tuple((index, labels[index]) for index in drawn), int(found["images"].max()))


@style.styled()
def draw_barriers(data: Barriers) -> Figure:
    """A triangle of fields, darker where the barrier is higher."""
    names = [style.shown(label, 48) for _, label in data.labels]
    place = {index: number for number, (index, _) in enumerate(data.labels)}
    size = len(names) - 1
    figure = style.new_figure(4.6 + 1.15 * size, 2.2 + 0.6 * size, "Loss barriers between trials of one seed")
    axes = figure.subplots()
    highest = max(float(data.rows["barrier"].max()), 1e-9)
    for row in data.rows.to_dict("records"):
        x, y, share = place[row["a"]], place[row["b"]] - 1, max(row["barrier"], 0.0) / highest
        field = Rectangle(
            (x - 0.5, y - 0.5), 1, 1, facecolor=style.DARK_BAR, alpha=0.08 + 0.84 * share, edgecolor=style.PAPER
        )
        axes.add_patch(field)
        style.set_hover(
            field,
            f"{row['cell_a']} to {row['cell_b']}: {row['barrier']:.3f} nats, from {row['lowest']:.3f} to {row['highest']:.3f}, {row['seeds']} seeds",
        )
        axes.text(
            x, y, f"{row['barrier']:.2f}", ha="center", va="center", color=style.PAPER if share > 0.5 else style.INK
        )
    axes.set_xticks(range(size), names[:-1], rotation=30, ha="right")
    axes.set_yticks(range(size), names[1:])
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _subjects(study: Study) -> list[Subject]:
    return [Subject()] if study.folder.records("barriers").exists() else []


FIGURE = FigureKind(
    name="barriers", section="dynamics", position=90, title="Loss barriers",
    caption="How far the training loss rises on the straight line between the final weights of two trials of one seed, above the line "
    "between the losses of both; nats, mean over seeds. Batch norm's statistics are computed anew at every point.",
    subjects=_subjects, build=lambda study, subject: build_barriers(study), draw=lambda data, subject: draw_barriers(data),
    columns=(
        TableColumn("cell_a", "cell"), TableColumn("cell_b", "and"), TableColumn("barrier", "barrier", "number", unit="nats"),
        TableColumn("lowest", "lowest seed", "number", unit="nats"), TableColumn("highest", "highest seed", "number", unit="nats"),
        TableColumn("seeds", "seeds", "count"),
    ),
)  # fmt: skip
