"""Sample images of the data set: one row per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.style import NothingToDraw, new_figure, shown, styled
from analysis.records.frames import Study

_MAX_COLUMNS, _MAX_CLASSES = 10, 20


@dataclass(frozen=True)
class SampleGrid:
    """`images` (classes, n, height, width, 3 or 1) uint8, one row per name in `class_names`."""

    images: np.ndarray
    class_names: tuple[str, ...]


def build_sample_grid(images: np.ndarray, class_names: Sequence[str]) -> SampleGrid:
    """The first images of each class; at most 10 images of at most 20 classes."""
    if images.size == 0:
        raise NothingToDraw("no sample images were kept")
    return SampleGrid(images[:_MAX_CLASSES, :_MAX_COLUMNS], tuple(class_names[:_MAX_CLASSES]))


@styled()
def draw_sample_grid(data: SampleGrid) -> Figure:
    """One picture of all images, its rows named by class."""
    classes, columns, height, width, _ = data.images.shape
    gap = max(1, height // 16)
    coloured = np.broadcast_to(data.images, (*data.images.shape[:4], 3))
    framed = np.pad(coloured, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 1)))
    framed[:, :, :height, :width, 3] = 255  # the gaps are transparent
    sheet = np.concatenate(np.concatenate(framed, axis=1), axis=1)[:-gap, :-gap]
    figure = new_figure(1.5 + 0.62 * columns, 0.6 + 0.62 * classes, "Sample images, one row per class")
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([row * (height + gap) + height / 2 for row in range(classes)])
    axes.set_yticklabels([shown(name, 24) for name in data.class_names])
    axes.tick_params(length=0, labelsize=9)
    axes.set_facecolor("none")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _build(study: Study, subject: Subject) -> SampleGrid:
    kept = study.folder.read_samples()
    if kept is None:
        raise NothingToDraw("no sample images were kept")
    return build_sample_grid(*kept)


FIGURE = FigureKind(
    name="samples", section="data", position=10, title="Sample images",
    caption="Images of the data set before augmentation, one row per class.",
    build=_build, draw=lambda data, subject: draw_sample_grid(data),
)  # fmt: skip
