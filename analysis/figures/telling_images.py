"""The test images that tell two cells apart: one gets them right and the other does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.comparison.tested_images import MOST_TELLING, compare_images, is_recorded
from analysis.drawing.declaration import FigureKind, Subject, whole_study
from analysis.drawing.selection import Labels
from analysis.drawing.style import INK, NothingToDraw, cell_style, new_cell_figure, set_hover, shown, styled
from analysis.records.frames import Study
from analysis.records.image_files import read_telling_images, read_test_labels

_COLUMNS = 8


@dataclass(frozen=True)
class TellingImages:
    """`rows` has columns index (in the test set), class_name (empty: unknown), share_a, share_b; `images` (rows, h, w, 3) uint8."""

    labels: Labels  # of the two cells
    rows: pd.DataFrame
    images: np.ndarray


def build_telling_images(study: Study) -> TellingImages:
    """The images that were kept, those first on which the two cells differ most now."""
    compared, kept, samples = compare_images(study), read_telling_images(study.folder), study.folder.read_samples()
    if compared is None:
        raise NothingToDraw("no two cells have completed trials on the same test images")
    if kept is None:
        raise NothingToDraw(
            "the images were not kept: the study still runs or is an older one; its command, once more, keeps them"
        )
    indices, images = kept
    num_images = len(compared.shares[0])
    if (indices >= num_images).any():
        raise NothingToDraw(
            "the images that were kept are not of this test set; the study's command, once more, keeps others"
        )
    if not len(indices):
        raise NothingToDraw("the two cells do not differ on any image")
    labels, names = read_test_labels(study.folder), samples[1] if samples is not None else []
    known = labels is not None and len(labels) == num_images
    rows = pd.DataFrame(
        {
            "index": indices, "class_name": [names[labels[i]] if known else "" for i in indices],  # type: ignore[index]
            "share_a": compared.shares[0][indices], "share_b": compared.shares[1][indices],
        }
    )  # fmt: skip
    order = np.argsort(-(rows["share_a"] - rows["share_b"]).abs().to_numpy(), kind="stable")[:MOST_TELLING]
    places = list(study.cells)
    cells = tuple((places.index(cell), study.cells[cell].label) for cell in compared.cells)
    return TellingImages(cells, rows.iloc[order].reset_index(drop=True), images[order])


@styled()
def draw_telling_images(data: TellingImages) -> Figure:
    """Each image below its class and above the shares of both cells' trainings that get it right, in the cells' colours."""
    high = -(-len(data.rows) // _COLUMNS)
    figure = new_cell_figure(1.05 * _COLUMNS, 0.5 + 1.42 * high, "Test images on which cells differ most", data.labels)
    fields = figure.subplots(high, _COLUMNS, squeeze=False).ravel()
    colors = [cell_style(index)["color"] for index, _ in data.labels]
    names = [label for _, label in data.labels]
    for row, image, axes in zip(data.rows.to_dict("records"), data.images, fields, strict=False):
        picture = axes.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
        shares = [f"{100 * row[name]:.0f} %" for name in ("share_a", "share_b")]
        said = ", ".join(f"{name}: {share} right" for name, share in zip(names, shares, strict=True))
        set_hover(picture, f"image {row['index']}, {row['class_name'] or 'class unknown'}; {said}")
        axes.set_title(shown(row["class_name"], 13), fontsize=7.5, color=INK, loc="center", pad=3)
        for place, share, color in zip((0.25, 0.75), shares, colors, strict=True):
            axes.text(place, -0.05, share, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color=color)
    for axes in fields:
        axes.set_axis_off()
    return figure


def _subjects(study: Study) -> Iterable[Subject]:
    return whole_study(study) if len(study.cells) > 1 and is_recorded(study) else []


def _caption(study: Study, subject: Subject) -> str:
    which = "the two cells" if len(study.cells) == 2 else "the best cell and the worst"
    return (
        f"The {MOST_TELLING} test images on which {which} differ most, as of the end of the last run (of equal ones the first), with "
        "the class and the share of each cell's trainings that get it right. They were chosen because they differ: with few seeds "
        "much of that is chance."
    )


FIGURE = FigureKind(
    name="telling_images", section="variance", position=40, title="Images that tell cells apart", caption=_caption,
    subjects=_subjects, build=lambda study, subject: build_telling_images(study),
    draw=lambda data, subject: draw_telling_images(data), wandb=False,
)  # fmt: skip
