"""What a table of results is: raw numbers, and how people see each column. Holds no rule of its own (formats.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

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
class Column:
    """One column as a person sees it.

    `name` is its column in the frame. `spread` names the column with its standard deviation: the two are shown together,
    as 93.10 ± 0.20. `low` and `high` name the ends of an interval, shown in brackets behind the value.
    """

    name: str
    header: str
    kind: ColumnKind = "text"
    spread: str = ""
    low: str = ""
    high: str = ""

    @property
    def title(self) -> str:
        """The header with its unit."""
        unit = {"accuracy": ", %", "points": ", points", "percent": ", %", "seconds": ", s"}.get(self.kind, "")
        return self.header + unit


@dataclass(frozen=True)
class ResultTable:
    """A table of results: `frame` holds raw numbers, `columns` the ones that people see and how, `notes` what to know."""

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()
