"""What declares a figure: its name and words, what it is built from and how it is drawn. Knows no figure.

A module of analysis/figures declares one (or several) as `FIGURE = FigureKind(...)` and nothing else needs to know it. Building
and drawing are two functions: what `build` returns is plain data that something else than matplotlib could draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.chart import Chart, draw_chart
from analysis.drawing.selection import ShownCell, detailed_cells, shown_networks
from analysis.records.frames import Study
from analysis.results.result_table import TableColumn

Data = TypeVar("Data")


@dataclass(frozen=True)
class Subject:
    """What one picture is about: the whole study, one of its cells, or one of its networks."""

    suffix: str = ""  # of the picture's name: `-cell1`
    about: str = ""  # for its title: label and seed of the trial that is shown
    cell: ShownCell | None = None
    network: str = ""  # its name, where the picture is about one
    row: int = 0  # of a table, where the picture is about one

    @property
    def own_cell(self) -> ShownCell:
        """The cell of a picture that is about one."""
        assert self.cell is not None
        return self.cell

    @property
    def seed(self) -> int:
        """The seed of the trial that stands for the cell."""
        return self.own_cell.representative_seed


def whole_study(study: Study) -> list[Subject]:
    """One picture, of all cells."""
    return [Subject()]


def each_cell(study: Study) -> list[Subject]:
    """A picture for each of the first cells, over its seeds."""
    return [Subject(f"-cell{cell.index + 1}", cell.label, cell) for cell in detailed_cells(study)]


def each_first_trial(study: Study) -> list[Subject]:
    """A picture for each of the first cells, of its first completed seed."""
    return [
        Subject(f"-cell{cell.index + 1}", f"{cell.label}, seed {cell.representative_seed}", cell)
        for cell in detailed_cells(study)
    ]


def each_network(study: Study) -> list[Subject]:
    """A picture for each of the first networks; the published one is told by its width alone."""
    return [
        Subject(f"-{name.replace(' ', '')}" if name.startswith("width ") else f"-network{number}", label, network=name)
        for number, (name, label) in enumerate(shown_networks(study).items(), 1)
    ]


@dataclass(frozen=True, kw_only=True)
class FigureKind(Generic[Data]):
    """A figure of the report. `build` and `draw` may raise NothingToDraw, whose reason a reader is told instead.

    name: of its files, with the suffix of the subject: `noise_scale.svg`, `gradient_flow-cell1.svg`.
    section: a key of sections.SECTIONS, or a new one; position: its place there, after smaller ones.
    title, caption: texts, or functions where they differ by study or subject. Figures of the same title stand together.
    picture_caption: what else the caption says of a picture that shows more than its chart; stands after `caption`.
    subjects: what there is a picture of; no subject where the figure does not apply to a study.
    wandb: the study's summary run at W&B gets it, unless it is of one cell.
    build_at_epoch: of the layer records of one trial and an epoch; such a figure is drawn for every trial's run at W&B.
    of_last_steps: those records are of the last step of each epoch, instead of the steps that are measured at the cadence.
    chart: the data as lines over the progress of training, which the live page draws too; then no `draw` is needed. None, or
        returning None, for another picture.
    columns: of the data, with units and meaning, where something else is to draw them.
    """

    name: str
    section: str
    title: str | Callable[[Subject], str]
    caption: str | Callable[[Study, Subject], str]
    build: Callable[[Study, Subject], Data]
    draw: Callable[[Data, Subject], Figure] | None = None
    subjects: Callable[[Study], Iterable[Subject]] = whole_study
    position: int = 1000
    wandb: bool = True
    build_at_epoch: Callable[[pd.DataFrame, int], Data] | None = None
    of_last_steps: bool = False
    chart: Callable[[Data, Subject], Chart | None] | None = None
    columns: tuple[TableColumn, ...] = ()
    picture_caption: str = ""

    def title_of(self, subject: Subject) -> str:
        """Its title where it is about `subject`."""
        return self.title if isinstance(self.title, str) else self.title(subject)

    def caption_of(self, study: Study, subject: Subject) -> str:
        """Its caption in a study, where it is about `subject`."""
        return self.caption if isinstance(self.caption, str) else self.caption(study, subject)

    def draw_on_paper(self, data: Data, subject: Subject) -> Figure:
        """What `build` returned as a picture. Errors: NothingToDraw."""
        if self.draw is not None:
            return self.draw(data, subject)
        chart = self.chart(data, subject) if self.chart is not None else None
        assert chart is not None, f"figure {self.name} has neither `draw` nor `chart`"
        return draw_chart(chart)


@dataclass(frozen=True)
class StudyFigure:
    """A figure of the report: `figure` is None where there was nothing to draw, for the reason in `reason`."""

    name: str  # of its files, and unique on the page
    section: str
    title: str
    caption: str  # what it shows and how its values are made
    cell: str  # label of the cell it is about, empty for a figure of the whole study
    figure: Figure | None
    reason: str = ""
