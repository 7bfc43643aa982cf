"""What the report page says, as plain values: its sections with tables and figures, and the verdict at its head.

Takes tables and pictures that others made and sorts them; knows no HTML beyond what formats.py and figures/files.py
return, and writes nothing. Every text may come from a study folder of somebody else: the template escapes it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.comparison.words import Answer, answer
from analysis.design.confounds import Confounds
from analysis.drawing.declaration import StudyFigure
from analysis.drawing.files import Picture
from analysis.records.frames import FINISHED, Study
from analysis.records.summary import count_outcomes, study_notes
from analysis.results.formats import format_rows, to_csv, to_html, with_points
from analysis.results.result_table import ResultTable
from analysis.sections import SECTIONS, section_place, section_title

MAX_ROWS = 500  # of a table on the page; its CSV has all
MAX_CSV_BYTES = 2_000_000  # embedded; a larger one is only a file
MAX_SVG_BYTES = 600_000  # a heavier picture is embedded as PNG
_MAX_GLANCE_CELLS, _MAX_LISTED_TRIALS = 6, 50


@dataclass(frozen=True)
class PageTable:
    """A table of the page: `html` is safe, `csv_url` holds the whole table, empty where it is too large."""

    name: str
    title: str
    notes: tuple[str, ...]
    html: str
    csv_url: str
    num_columns: int
    num_rows: int
    num_shown: int


@dataclass(frozen=True)
class PagePicture:
    """One picture: `svg` (safe) or `png_url`, or neither and the reason."""

    name: str
    cell: str
    caption: str
    title: str = ""
    svg: str = ""
    png_url: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""


@dataclass(frozen=True)
class FigureGroup:
    """Pictures of the same kind: of the whole study, or one per cell."""

    title: str
    pictures: tuple[PagePicture, ...]


@dataclass(frozen=True)
class Section:
    """A section of the page; `texts` are paragraphs before its figures and tables."""

    id: str
    title: str
    figures: tuple[FigureGroup, ...]
    tables: tuple[PageTable, ...]
    texts: tuple[str, ...] = ()
    grid_text: str = ""
    grid_url: str = ""


@dataclass(frozen=True)
class GlanceRow:
    """One quantity: its value in every cell, and the published one beside it where there is any."""

    title: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verdict:
    """The head of the page: the answer in the primary metric, and what to know before believing it."""

    answer: Answer
    figures: tuple[FigureGroup, ...]
    counts: tuple[tuple[str, int], ...]  # pairs in the secondary metrics by verdict
    claims: tuple[tuple[str, int], ...]  # claims by verdict
    warnings: tuple[str, ...]
    confounds: tuple[str, ...]
    unfinished: tuple[dict[str, str], ...]  # trials that did not complete: cell, seed, status, reason
    num_unfinished: int
    glance: tuple[GlanceRow, ...]  # the comparison with a column per cell; the first row is its head


def build_verdict(
    study: Study,
    tables: Mapping[str, ResultTable],
    figures: Sequence[tuple[StudyFigure, Picture | None]],
    confounds: Confounds,
) -> Verdict:
    """The verdict summary, from whichever tables there are."""
    pairs = tables["pairwise"].frame if "pairwise" in tables else pd.DataFrame({"primary": [], "verdict": []})
    trials = study.trials[study.trials["status"] != FINISHED]
    unfinished = [
        {
            "cell": str(row.label),
            "seed": str(row.seed),
            "status": str(row.status),
            "reason": row.reason if isinstance(row.reason, str) else "",
        }
        for row in trials.head(_MAX_LISTED_TRIALS).itertuples()
    ]
    missing = count_outcomes(study).get("missing", 0)
    if missing:
        unfinished.append({"cell": f"{missing} trials", "seed": "", "status": "missing", "reason": "no record of them"})
    return Verdict(
        answer=answer(study),
        figures=_group_figures([(figure, picture) for figure, picture in figures if figure.section == "verdict"]),
        counts=_count(pairs.loc[~pairs["primary"].astype(bool), "verdict"], ("different", "equivalent", "undecided")),
        claims=_count(
            tables["claims"].frame["verdict"] if "claims" in tables else (),
            ("reproduced", "not reproduced", "contradicted", "undetermined"),
        ),
        warnings=study_notes(study),
        confounds=confounds.sentences,
        unfinished=tuple(unfinished),
        num_unfinished=len(trials) + missing,
        glance=_turn(tables["comparison"]) if "comparison" in tables else (),
    )


def _count(verdicts: Iterable[Any], order: Sequence[str]) -> tuple[tuple[str, int], ...]:
    counts = Counter(str(verdict) for verdict in verdicts)
    names = [*order, *sorted(set(counts) - set(order))]
    return tuple((name, counts[name]) for name in names if counts[name])


def _turn(comparison: ResultTable) -> tuple[GlanceRow, ...]:
    """The comparison with cells as columns, the first row with their labels; empty for more cells than fit side by side."""
    headers, rows = format_rows(comparison)
    if not 0 < len(rows) <= _MAX_GLANCE_CELLS:
        return ()
    columns = dict(zip((column.name for column in comparison.columns), zip(*rows, strict=True), strict=True))
    turned = []
    for column, header in zip(comparison.columns, headers, strict=True):
        if not column.name.endswith("_published"):
            published = columns.get(column.name.removesuffix("_mean") + "_published", ("",) * len(rows))
            turned.append(GlanceRow(header, tuple(zip(columns[column.name], published, strict=True))))
    return tuple(turned)


def build_sections(
    study: Study, tables: Mapping[str, ResultTable], figures: Sequence[tuple[StudyFigure, Picture | None]],
    confounds: Confounds, grid_text: str, left_out: str,
) -> list[Section]:  # fmt: skip
    """The sections that have something to show, in reading order."""
    common = set(study_notes(study))
    sections = []
    declared = {figure.section for figure, _ in figures} | {table.section for table in tables.values()}
    for name in sorted((declared | set(SECTIONS)) - {"verdict"}, key=lambda name: (section_place(name), name)):
        groups = _group_figures([(figure, picture) for figure, picture in figures if figure.section == name])
        own = tuple(build_page_table(table, common) for table in tables.values() if table.section == name)
        texts = section_texts(study, name, confounds, left_out)
        grid = grid_text if name == "confounds" else ""
        if groups or own or texts:
            sections.append(Section(name, section_title(name), groups, own, texts, grid, grid_file_url(grid)))
    return sections


def grid_file_url(text: str) -> str:
    """A grid file to download, empty where there is none."""
    return _data_url("application/toml", text.encode()) if text else ""


def section_texts(study: Study, name: str, confounds: Confounds, left_out: str) -> tuple[str, ...]:
    """The paragraphs at the head of a section."""
    if name == "confounds":
        nothing = ("No factors of this grid move together: the effect of each can be told from the others.",)
        return confounds.sentences or nothing
    if name == "dynamics" and left_out:
        return (left_out,)
    if name == "search" and study.info.search is not None:
        from analysis.search.history import load_search  # Optuna takes a second to import
        from analysis.search.words import describe_search

        return describe_search(load_search(study))
    return ()


def build_page_table(table: ResultTable, common_notes: Iterable[str] = ()) -> PageTable:
    """A table for the page, its first 500 rows shown; notes that stand at the head of the page are not repeated."""
    csv = to_csv(table).encode()
    short = dataclasses.replace(table, frame=table.frame.head(MAX_ROWS))
    return PageTable(
        table.name, table.title, tuple(note for note in table.notes if note not in set(common_notes)), to_html(short),
        _data_url("text/csv;charset=utf-8", csv) if len(csv) <= MAX_CSV_BYTES else "", len(table.columns),
        len(table.frame), len(short.frame),
    )  # fmt: skip


def _group_figures(figures: Sequence[tuple[StudyFigure, Picture | None]]) -> tuple[FigureGroup, ...]:
    """Figures with the same title stand together, in the order of the first of them."""
    groups: dict[str, list[PagePicture]] = {}
    for figure, picture in figures:
        groups.setdefault(figure.title, []).append(build_page_picture(figure, picture))
    return tuple(FigureGroup(title, tuple(pictures)) for title, pictures in groups.items())


def build_page_picture(figure: StudyFigure, picture: Picture | None) -> PagePicture:
    """The picture for a page, or why there is none."""
    if picture is None:
        return PagePicture(figure.name, figure.cell, figure.caption, reason=figure.reason)
    heavy = len(picture.inline_svg) > MAX_SVG_BYTES
    return PagePicture(
        figure.name, figure.cell, figure.caption, picture.title, svg="" if heavy else picture.inline_svg,
        png_url=_data_url("image/png", picture.png) if heavy else "", width=picture.width, height=picture.height,
    )  # fmt: skip


def build_environment(study: Study) -> list[tuple[str, str]]:
    """Where the numbers come from: commit, versions, hardware, data, invocations and accepted changes, as (name, value)."""
    info = study.info
    rows: list[tuple[str, str]] = [("study", info.name), ("created", info.created_at)]
    for prefix, content in (
        ("code", info.code), ("data", info.data), ("", info.environment), ("resources", info.resources),
    ):  # fmt: skip
        rows.extend(_flatten(prefix, content))
    rows.extend(dict.fromkeys(("your code", words) for cell in info.cells if (words := name_code(cell.config))))
    rows.append(("seeds", ", ".join(map(str, info.seeds))))
    rows.append(("primary metric", info.primary_metric.replace("_", " ")))
    rows.append(("equivalence margin", with_points(f"{100 * info.equivalence_margin:g}")))
    rows.extend((f"reduction {number}", text) for number, text in enumerate(info.reductions, 1))
    for number, invocation in enumerate(info.attempts, 1):  # those of the driver
        rows.extend(_flatten(f"invocation {number}", invocation))
    for number, change in enumerate(info.accepted_changes, 1):
        rows.extend(_flatten(f"accepted change {number}", change))
    return rows


def name_code(config: Mapping[str, Any]) -> str:
    """The network of a configuration with the hash of its source, where it is the user's; else empty."""
    source = config.get("model_source")
    return f"{config['model']}, source {source}" if source else ""


def _flatten(prefix: str, content: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in content.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            rows.extend(_flatten(name, value))
        elif value is not None and value != []:
            rows.append((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
