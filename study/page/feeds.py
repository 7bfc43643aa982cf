"""Charts as JSON of which a page gets only what it lacks: each row knows the version of the study that it came with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.drawing import style
from analysis.drawing.chart import Chart

_KEY = ["panel", "cell", "epoch"]
_SPREAD = ["mean", "sd", "num"]
_DASHES = {"-": "solid", (0, (5, 2)): "dash", (0, (1, 1.3)): "dot"}
_MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "*": "star",
            "<": "triangle-left", ">": "triangle-right", "p": "pentagon"}  # fmt: skip


class ChartFeed:
    """One chart over the versions of its study."""

    def __init__(self) -> None:
        self._rows = pd.DataFrame(columns=_KEY)
        self._stamps = np.zeros(0, dtype=np.int64)
        self._whole_since = 0  # pages that have an older version need all rows

    def update(self, chart: Chart, version: int) -> None:
        """Take in the chart of a newer version: rows that are new or changed get its number."""
        columns = [*_KEY, *dict.fromkeys([*chart.axes, *_SPREAD])]
        rows = chart.rows[list(dict.fromkeys(columns))].reset_index(drop=True)
        before = self._rows.assign(_stamp=self._stamps)
        if list(before.columns[:-1]) != list(rows.columns):
            before = before.iloc[:0]
        values = [name for name in rows.columns if name not in _KEY]
        joined = rows.merge(before, how="left", on=_KEY, suffixes=("", "_before")) if len(before) else None
        if joined is None or int(joined["_stamp"].notna().sum()) < len(before):
            self._rows, self._stamps, self._whole_since = rows, np.full(len(rows), version), version
            return
        now = rows[values].to_numpy(dtype=float)
        then = joined[[f"{name}_before" for name in values]].to_numpy(dtype=float)
        same = ((now == then) | (np.isnan(now) & np.isnan(then))).all(axis=1) & joined["_stamp"].notna().to_numpy()
        self._stamps = np.where(same, joined["_stamp"].to_numpy(), version).astype(np.int64)
        self._rows = rows

    def to_json(self, chart: Chart, since: int) -> dict[str, Any]:
        """What a page that has version `since` lacks (0: nothing yet); `whole` where it replaces all that the page has."""
        whole = since < self._whole_since
        rows = self._rows if whole else self._rows[self._stamps > since]
        answer: dict[str, Any] = {"whole": whole, "rows": {name: _column(rows[name]) for name in rows.columns}}
        if whole:
            answer |= describe_chart(chart)
        return answer


def describe_chart(chart: Chart) -> dict[str, Any]:
    """All of a chart but its rows."""
    return {
        "title": chart.title,
        "columns": chart.columns,
        "panels": [
            {"name": panel.name, "title": panel.title, "percent": panel.in_percent, "log": panel.log}
            for panel in chart.panels
        ],
        "axes": dict(chart.axes),
        "lines": [{"cell": index, "label": style.shown(label), **_look(index)} for index, label in chart.labels],
    }


def _look(index: int) -> dict[str, str]:
    look = style.cell_style(index)
    color = look["color"]
    return {
        "color": color,
        "dark": style.DARK.get(color, color),
        "dash": _DASHES[look["linestyle"]],
        "marker": _MARKERS[look["marker"]],
    }


def _column(values: pd.Series) -> list[Any]:
    """Numbers with six digits, null where there is none."""
    if values.dtype.kind in "iu":
        return [int(value) for value in values]
    if values.dtype.kind == "f":
        return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
    return [str(value) for value in values]
