"""What a table of results is: raw numbers, and how people see each column; and what declares one (TableKind).

A module of analysis/tables declares a table as `TABLE = TableKind(...)` and nothing else needs to know it. How a number is
written down is for formats.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from analysis.records.frames import Study

ColumnKind = Literal[
    "text",
    "count",
    "accuracy",
    "points",
    "loss",
    "number",
    "learning_rate",
    "seconds",
    "scientific",
    "flops",
    "percent",
    "p_value",
    "flag",
]


@dataclass(frozen=True)
class TableColumn:
    """One column as a person sees it.

    `name` is its column in the frame. `spread` names the column with its standard deviation: the two are shown together,
    as 93.10 ± 0.20. `low` and `high` name the ends of an interval, shown in brackets behind the value. `unit` stands behind the
    header, `meaning` is what the page tells about the column when it is pointed at.
    """

    name: str
    header: str
    kind: ColumnKind = "text"
    spread: str = ""
    low: str = ""
    high: str = ""
    unit: str = ""
    meaning: str = ""

    @property
    def title(self) -> str:
        """The header with its unit."""
        usual = {"accuracy": "%", "points": "points", "percent": "%", "seconds": "s"}.get(self.kind, "")
        unit = self.unit or usual
        return f"{self.header}, {unit}" if unit else self.header


@dataclass(frozen=True)
class ResultTable:
    """A table of results: `frame` holds raw numbers, `columns` the ones that people see and how, `notes` what to know."""

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[TableColumn, ...]
    notes: tuple[str, ...] = ()
    section: str = "more"


@dataclass(frozen=True)
class TableContent:
    """What a table holds for one study: see ResultTable."""

    frame: pd.DataFrame
    columns: tuple[TableColumn, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TableKind:
    """A table of the report.

    name: of its files, `NAME.csv`, and of its block on the page.
    section: a key of sections.SECTIONS, or a new one; position: its place there, after smaller ones.
    title: a text, or a function where it differs by study.
    wandb: the study's summary run at W&B gets it.
    applies: whether a study has it at all; asked for by name it is built all the same, and says why it is empty.
    """

    name: str
    section: str
    title: str | Callable[[Study], str]
    build: Callable[[Study], TableContent]
    position: int = 1000
    wandb: bool = False
    applies: Callable[[Study], bool] = lambda study: True

    def fill(self, study: Study, notes: Sequence[str] = ()) -> ResultTable:
        """The table of a study, without columns of published numbers where there is none; `notes` stand before its own."""
        content = self.build(study)
        title = self.title if isinstance(self.title, str) else self.title(study)
        shown = tuple(
            column for column in content.columns
            if not (column.name.startswith("published") and content.frame[column.name].isna().all())
        )  # fmt: skip
        return ResultTable(self.name, title, content.frame, shown, (*notes, *content.notes), self.section)
