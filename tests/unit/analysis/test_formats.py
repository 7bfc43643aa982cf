"""Numbers with the digits their spread supports, and tables in every format, with hostile names in them."""

from __future__ import annotations

import csv
import html.parser
import io
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.records.study_folder import StudyFolder
from analysis.results.formats import (
    decimals_supported,
    format_rows,
    format_value,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    to_text,
    with_points,
    write_tables,
)
from analysis.results.result_table import ColumnKind, ResultTable, TableColumn

HOSTILE = '<script>alert("x")</script> | 50% & $x_1$ `a` #\\ {b}'


@pytest.mark.parametrize(
    ("spread", "decimals"),
    [
        (0.0123, 3), (0.0354, 3), (0.0356, 2), (0.95, 1), (0.996, 1), (1.0, 1), (3.54, 1), (3.56, 0), (9.4, 0), (23, 0),
        (42, -1), (150, -1), (400, -2), (0, None), (-1, None), (math.nan, None), (math.inf, None),
    ],
)  # fmt: skip
def test_two_digits_of_a_spread_up_to_354_and_one_of_a_larger_one(spread: float, decimals: int | None) -> None:
    assert decimals_supported(spread) == decimals


@given(st.floats(1e-9, 1e9))
def test_a_rounded_spread_keeps_its_size(spread: float) -> None:
    decimals = decimals_supported(spread)
    assert decimals is not None
    assert round(spread, decimals) == pytest.approx(spread, rel=0.5)
    assert len(f"{round(spread / 10.0**-decimals)}") in (1, 2)


@pytest.mark.parametrize(
    ("value", "kind", "spread", "text"),
    [
        (0.93104, "accuracy", math.nan, "93.10"),
        (0.93104, "accuracy", 0.0051, "93.1"),
        (0.93104, "accuracy", 0.00012, "93.104"),
        (0.04149, "points", 0.0044, "4.1"),
        (0.0863999, "loss", math.nan, "0.0864"),
        (0.0863999, "loss", 0.0041, "0.086"),
        (481.3, "seconds", 43.0, "480"),
        (0.5244, "accuracy", 0.6, "52"),
        (8.6, "number", 263.0, "9"),
        (481.3, "seconds", math.nan, "481"),
        (3.42e-3, "scientific", math.nan, "3.4e-03"),
        (3.4213e-3, "scientific", 1.2e-5, "3.421e-03"),
        (0.1357, "learning_rate", math.nan, "0.1357"),
        (5e-5, "learning_rate", math.nan, "5e-05"),
        (11173962, "count", math.nan, "11,173,962"),
        (True, "flag", math.nan, "yes"),
        (math.nan, "accuracy", 0.1, "-"),
        (None, "text", math.nan, "-"),
        (-0.00001, "accuracy", 0.01, "0.0"),
        (0.93, "accuracy", 1e-17, "93.00"),
    ],
)
def test_values_by_kind(value: float, kind: ColumnKind, spread: float, text: str) -> None:
    assert format_value(value, kind, spread) == text


def _table() -> ResultTable:
    frame = pd.DataFrame(
        {
            "label": [HOSTILE, "b"], "mean": [0.9310, 0.9239], "sd": [0.002, math.nan], "value": [1.234, 2.0],
            "low": [1.0, math.nan], "high": [1.4, math.nan], "hidden": [1, 2],
        }
    )  # fmt: skip
    columns = (
        TableColumn("label", "cell"), TableColumn("mean", "accuracy", "accuracy", spread="sd"),
        TableColumn("value", "change", "number", low="low", high="high"),
    )  # fmt: skip
    return ResultTable("some_table", f"Title {HOSTILE}", frame, columns, (f"Note {HOSTILE}",))


def test_people_see_spreads_and_intervals() -> None:
    headers, rows = format_rows(_table())
    assert headers == ["cell", "accuracy, %", "change"]
    assert [row[1:] for row in rows] == [["93.10 ± 0.20", "1.23 [1.00, 1.40]"], ["92.39", "2"]]


def test_csv_holds_every_column_with_raw_numbers() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(_table()))))
    assert rows[0]["label"] == HOSTILE
    assert [float(row["mean"]) for row in rows] == [0.9310, 0.9239]
    assert rows[1]["sd"] == ""
    assert rows[0]["hidden"] == "1"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a=1", "b", ""])
def test_texts_that_a_spreadsheet_would_run_have_an_apostrophe(text: str) -> None:
    frame = pd.DataFrame({"label": [text, "b"], "value": [-1.5, 2.0], "mixed": [-1, text], "kind": [text, "b"]})
    frame["kind"] = frame["kind"].astype("category")
    rows = list(csv.DictReader(io.StringIO(to_csv(ResultTable("t", "t", frame, (TableColumn("label", "cell"),))))))
    shown = text if text in ("a=1", "b", "") else f"'{text}"
    assert [rows[0]["label"], rows[1]["mixed"], rows[0]["kind"]] == [shown] * 3
    assert (rows[0]["value"], rows[0]["mixed"]) == ("-1.5", "-1")


def test_markdown_keeps_its_columns_and_shows_markup() -> None:
    text = to_markdown(_table())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_latex_escapes_what_latex_would_run() -> None:
    text = to_latex(_table())
    for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption"):
        assert text.count(word) == 1
    rows = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(rows) == 2
    for row in rows:
        assert row.endswith(r" \\")
        assert row.replace(r"\&", "").count("&") == 2
    assert r"\textbackslash{}" in text
    assert r"50\% \& \$x\_1\$" in text
    assert r"93.10 $\pm$ 0.20" in text


class _Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.values: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for name, value in attrs if name == "data-value"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_shows_names_and_never_runs_them() -> None:
    parsed = _Elements()
    parsed.feed(to_html(_table()))
    assert set(parsed.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert HOSTILE in parsed.texts
    assert parsed.values == ["0.931", "1.234", "0.9239", "2.0"]


def test_text_is_turned_where_only_that_fits() -> None:
    wide, narrow = to_text(_table()), to_text(_table(), width=75)
    assert len(wide.splitlines()) - len(narrow.splitlines()) == 0  # 3 columns, 2 rows and a header
    assert narrow.splitlines()[-1].startswith("change")
    assert wide.splitlines()[-1].startswith("b ")


def test_every_format_is_written(tmp_path: object) -> None:
    folder = StudyFolder(tmp_path)  # type: ignore[arg-type]
    write_tables({"some_table": _table()}, folder)
    assert sorted(path.name for path in folder.tables.iterdir()) == [
        f"some_table.{s}" for s in ("csv", "html", "md", "tex")
    ]
    assert (folder.tables / "some_table.csv").read_text() == to_csv(_table())


def test_a_table_without_rows_has_headers_in_every_format() -> None:
    table = ResultTable("empty", "Empty", _table().frame.iloc[:0], _table().columns)
    for write in (to_csv, to_markdown, to_latex, to_html, to_text):
        assert "cell" in write(table) or write is to_csv


@pytest.mark.parametrize(
    ("number", "said"), [("1", "1 point"), ("-1", "-1 point"), ("1.0", "1.0 points"), ("24", "24 points")]
)
def test_one_point_is_no_points(number: str, said: str) -> None:
    assert with_points(number) == said
