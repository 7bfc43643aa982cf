"""Every figure of a study: a module for each, which declares it. They are drawn one by one as they are asked for.

A figure with nothing to draw is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.drawing.declaration import FigureKind, StudyFigure, Subject
from analysis.drawing.style import NothingToDraw
from analysis.records.frames import Study
from analysis.sections import discover_in_order


def figure_kinds(*, search: bool = False) -> dict[str, FigureKind[Any]]:
    """Every figure that is declared, in reading order; those of a search where asked for."""
    return discover_in_order("analysis.figures", FigureKind, search=search)


def trial_figures() -> dict[str, FigureKind[Any]]:
    """The figures that are drawn of a single trial at an epoch, for its run at W&B."""
    return {name: kind for name, kind in figure_kinds().items() if kind.wandb and kind.build_at_epoch}


def summary_figures(study: Study) -> list[str]:
    """The names of the figures that the study's summary run at W&B gets: those about more than one cell."""
    return [kind.name + about.suffix for kind, about in plan_figures(study) if kind.wandb and about.cell is None]


def is_figure_file(name: str) -> bool:
    """Whether a file is called like a figure of the report, of this study or of what it was before."""
    kind, *subject = Path(name).stem.split("-")
    known = len(subject) <= 1 and Path(name).suffix in (".png", ".svg")
    return known and kind in figure_kinds(search=kind.startswith("search_"))


def plan_figures(study: Study) -> Iterator[tuple[FigureKind[Any], Subject]]:
    """Every figure that the study has, each with what it is about."""
    for kind in figure_kinds(search=study.info.search is not None).values():
        for subject in kind.subjects(study):
            yield kind, subject


def draw_study_figures(study: Study) -> Iterator[StudyFigure]:
    """Every figure of the study, drawn when it is its turn."""
    for kind, subject in plan_figures(study):
        yield draw_study_figure(study, kind, subject)


def draw_study_figure(study: Study, kind: FigureKind[Any], subject: Subject) -> StudyFigure:
    """One figure of the study."""
    figure, reason = None, ""
    try:
        figure = kind.draw_on_paper(kind.build(study, subject), subject)
    except NothingToDraw as error:
        reason = str(error)
    label = subject.cell.label if subject.cell else ""
    title, caption = kind.title_of(subject), f"{kind.caption_of(study, subject)} {kind.picture_caption}".strip()
    return StudyFigure(kind.name + subject.suffix, kind.section, title, caption, label, figure, reason)
