"""How results are written down: the digits a number deserves, and a table as CSV, Markdown, LaTeX, HTML or plain text.

CSV holds the raw numbers (accuracies as fractions); the others are for people. Names that come from a study are shown as
they are and never interpreted. Knows nothing of where a table comes from.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.records.study_folder import StudyFolder
from analysis.results.result_table import ColumnKind, ResultTable, TableColumn
from trainable.files import write_atomically

MISSING = "-"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_PERCENT = ("accuracy", "points", "percent")
# Decimals where the spread is unknown (one seed), and the most that any spread can buy.
_LONG = 60  # characters of a text for which a table makes room
_DECIMALS = {"accuracy": (2, 4), "points": (2, 4), "percent": (2, 4), "loss": (4, 6), "seconds": (None, 3)}


def decimals_supported(spread: float) -> int | None:
    """Decimals that a spread leaves meaningful, by the rule of the Particle Data Group: two digits of a spread up to 354,
    one of a larger one.

    0.0123 -> 3, 0.0456 -> 2, 150 -> -1 (tens). None where the spread is unknown or 0: it then says nothing.
    """
    if not math.isfinite(spread) or spread <= 0:
        return None
    leading, _, exponent = f"{spread:.2e}".partition("e")
    return -int(exponent) + (1 if float(leading) < 3.55 else 0)


def format_value(value: Any, kind: ColumnKind = "number", spread: float = math.nan) -> str:
    """A number with the digits its spread supports; without a spread, with those usual for its kind."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if kind == "text":
        return str(value)
    if kind == "flag":
        return "yes" if value else "no"
    if not math.isfinite(value):
        return str(float(value))
    if kind in _PERCENT:
        value, spread = 100 * value, 100 * spread
    if spread <= 1e-9 * abs(value):  # rounding errors of values that are equal
        spread = math.nan
    usual, most = _DECIMALS.get(kind, (None, None))
    supported = decimals_supported(spread)
    if supported is not None:
        decimals = max(supported, 0) if kind in (*_PERCENT, "number", "loss") else supported
        decimals = decimals if most is None else min(decimals, most)
        return _scientific(value, decimals) if kind in ("scientific", "flops") else _rounded(value, decimals)
    return _rounded(value, usual) if usual is not None else _usual(value, kind)


def with_points(number: str) -> str:
    """`1 point`, `0.5 points`: a number that was formatted, with its unit."""
    return f"{number} point{'' if number in ('1', '-1') else 's'}"


def format_cell(row: Mapping[str, Any], column: TableColumn) -> str:
    """One cell of a table as a person reads it: the value, its spread or its interval."""
    value = row[column.name]
    if column.low:
        low, high = row[column.low], row[column.high]
        width = (high - low) / 2 if _is_number(low) and _is_number(high) else math.nan
        text = format_value(value, column.kind, width)
        if math.isnan(width) or width <= 1e-9 * abs(value):
            return text
        ends = [format_value(end, column.kind, width) for end in (low, high)]
        return f"{text} [{ends[0]}, {ends[1]}]"
    spread = row[column.spread] if column.spread else math.nan
    spread = float(spread) if _is_number(spread) else math.nan
    text = format_value(value, column.kind, spread)
    if decimals_supported(spread) is None or text == MISSING or spread <= 1e-9 * abs(value):
        return text
    return f"{text} ± {format_value(spread, column.kind, spread)}"


def format_rows(table: ResultTable) -> tuple[list[str], list[list[str]]]:
    """The headers and the rows of a table as text."""
    records = table.frame.to_dict("records")
    return (
        [column.title for column in table.columns],
        [[format_cell({str(k): v for k, v in row.items()}, column) for column in table.columns] for row in records],
    )


def to_csv(table: ResultTable) -> str:
    """Every column of the frame with its raw numbers; missing values are empty.

    A text that a spreadsheet would run as a formula, because it begins with = + - @ or a control character, has an
    apostrophe before it: names may come from the study of somebody else. Numbers are as they are.
    """
    texts = table.frame.select_dtypes(exclude=["number", "bool"])
    harmless = table.frame.assign(**{str(name): texts[name].map(_without_formula) for name in texts})
    return str(harmless.to_csv(index=False, lineterminator="\n"))


def to_markdown(table: ResultTable) -> str:
    """A heading, the notes, and a pipe table."""
    headers, rows = format_rows(table)
    align = ["---" if column.kind == "text" else "---:" for column in table.columns]
    lines = [_pipes(map(_markdown, headers)), _pipes(align), *(_pipes(map(_markdown, row)) for row in rows)]
    notes = "".join(f"{_markdown(note)}\n\n" for note in table.notes)
    return f"## {_markdown(table.title)}\n\n{notes}" + "\n".join(lines) + "\n"


def to_latex(table: ResultTable) -> str:
    """A table environment for the booktabs package; the notes stand below the rows."""
    headers, rows = format_rows(table)
    align = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(map(_latex, headers)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_latex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {_latex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_html(table: ResultTable) -> str:
    """A table element with a caption; numbers carry their raw value in data-value, for sorting."""
    headers, rows = format_rows(table)
    records = table.frame.to_dict("records")
    head = "".join(
        f'<th scope="col" data-kind="{c.kind}"{_hover(c.meaning)}>{html.escape(h)}</th>'
        for c, h in zip(table.columns, headers, strict=True)
    )
    body = []
    for record, row in zip(records, rows, strict=True):
        cells = (_html_cell(record[column.name], column, text) for column, text in zip(table.columns, row, strict=True))
        body.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return (
        f'<table id="table-{html.escape(table.name)}">{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table>\n"
    )


def to_text(table: ResultTable, width: int | None = None) -> str:
    """Aligned plain text for a terminal; turned, one line per column, where only that fits `width` characters."""
    headers, rows = format_rows(table)
    left = [column.kind == "text" for column in table.columns]
    lines = _aligned([headers, *rows], left)
    if width is not None and rows and max(map(len, lines)) > width:
        turned = _aligned([list(cells) for cells in zip(headers, *rows, strict=True)], [True, *(False for _ in rows)])
        lines = turned if max(map(len, turned)) < max(map(len, lines)) else lines
    return "\n".join([table.title, *table.notes, "", *lines]) + "\n"


def write_tables(tables: Mapping[str, ResultTable], folder: StudyFolder) -> None:
    """Write report/tables/NAME.csv, .md, .tex and .html, each in one step."""
    for table in tables.values():
        for suffix, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex), ("html", to_html)):
            write_atomically(folder.tables / f"{table.name}.{suffix}", text(table).encode())


def _without_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def _rounded(value: float, decimals: int) -> str:
    text = f"{round(value, decimals):.{max(decimals, 0)}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _scientific(value: float, decimals: int) -> str:
    """Powers of ten with the last digit at `decimals`."""
    exponent = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(decimals + exponent, 0), 6)}e}"


def _usual(value: float, kind: ColumnKind) -> str:
    if kind == "count":
        return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
    if kind == "scientific":
        return f"{value:.1e}"
    if kind == "flops":
        return f"{value:.3e}"
    if kind == "learning_rate":
        return f"{value:.4f}" if 1e-3 <= abs(value) < 10 or value == 0 else f"{value:.4g}"
    if kind == "p_value":
        return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"
    if kind == "seconds":
        return _rounded(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)
    return f"{value:.3g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _pipes(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    text = re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "[": "{[}", "]": "{]}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _hover(text: str) -> str:
    return f' title="{html.escape(text)}"' if text else ""


def _html_cell(value: Any, column: TableColumn, text: str) -> str:
    raw = f' data-value="{float(value)!r}"' if _is_number(value) else ""
    text_class = "text long" if len(text) > _LONG else "text"
    tag = "td" if column.kind != "text" else f'td class="{text_class}"'
    return f"<{tag}{raw}>{html.escape(text)}</td>"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(left))]
    return [
        "  ".join(
            c.ljust(w) if is_left else c.rjust(w) for c, w, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]
