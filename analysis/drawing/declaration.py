"""What a figure of the report is, before and after it is drawn. Knows no records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class StudyFigure:
    """A figure of the report: `figure` is None where there was nothing to draw, for the reason in `reason`."""

    name: str  # of its files, and unique on the page
    section: str  # search, data, curves, dynamics, flops or schedule
    title: str
    caption: str  # what it shows and how its values are made
    cell: str  # label of the cell it is about, empty for a figure of the whole study
    figure: Figure | None
    reason: str = ""


@dataclass(frozen=True)
class FigurePlan:
    """A figure that is still to be drawn; `draw` may raise NothingToDraw."""

    name: str
    section: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    cell: str = ""
