"""The columns that say which cell a row is about: its label and factors, first in every table, cells in study order."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.records.factors import field_title
from analysis.records.frames import Study
from analysis.results.result_table import ColumnKind, TableColumn

_KINDS: dict[str, ColumnKind] = {"learning_rate": "learning_rate", "batch_size": "count", "epochs": "count"}


def factor_columns(study: Study) -> tuple[TableColumn, ...]:
    """Batch size, learning rate and the other factors of the study, as columns."""
    names = [
        "batch_size",
        "learning_rate",
        *(f for f in study.info.factors if f not in ("batch_size", "learning_rate")),
    ]
    kind = {name: _factor_kind(study, name) for name in names}
    return (TableColumn("label", "cell"), *(TableColumn(name, field_title(name), kind[name]) for name in names))


def add_factors(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """`frame`, which has a column cell_id, with the columns of `factor_columns` in front and cell_id last."""
    values = {}
    for column in factor_columns(study):
        name = column.name
        own = {cell.cell_id: cell.label if name == "label" else cell.config.get(name) for cell in study.info.cells}
        mixed = None in own.values()  # some networks have the field: whole numbers stay whole
        values[name] = pd.Series(list(map(own.get, frame["cell_id"])), frame.index, object if mixed else None)
    rest = frame.drop(columns=[*(name for name in values if name in frame), "cell_id"])
    return pd.concat([pd.DataFrame(values, index=frame.index), rest, frame[["cell_id"]]], axis=1)


def _factor_kind(study: Study, name: str) -> ColumnKind:
    values = [cell.config.get(name) for cell in study.info.cells]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return _KINDS.get(name, "number")
    return "text"


def in_study_order(study: Study, frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    position = {cell_id: number for number, cell_id in enumerate(study.cells)}
    ordered = frame.assign(_position=frame["cell_id"].map(position)).sort_values(
        ["_position", *keys], ignore_index=True
    )
    return ordered.drop(columns="_position")
