"""The parts of a study's page as HTML: each is made when a page shows it. The words and numbers are those of the report.

Every text may come from a study folder of somebody else: templates escape it, and characters that do not show are replaced.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis.comparison.branches import describe_branch
from analysis.drawing.selection import left_out_note
from analysis.drawing.style import NothingToDraw
from analysis.figures import plan_figures
from analysis.figures.grid_heatmap import GridMap, build_grid_map, format_behind, format_interval, format_mean
from analysis.metrics import list_metrics
from analysis.records.frames import Study
from analysis.records.summary import study_notes, summarize_trials
from analysis.report.content import (
    Verdict,
    build_environment,
    build_page_table,
    build_verdict,
    grid_file_url,
    section_texts,
)
from analysis.report.page import build_templates, find_study_confounds, show_invisible
from analysis.results.formats import format_value
from analysis.search.spec import MAX_SEARCH_TRIALS
from analysis.sections import section_place, section_title
from analysis.tables import build_tables, table_kinds
from study.page.live_study import LiveStudy
from study.page.watched import WatchedStudy
from study.spec.search_spec import FIRST_SEARCH_SEED
from trainable.records.columns import TRIAL_STATUSES

TRIALS_ON_A_PAGE = 50
# What a part may be asked for with, and what counts as such.
_CHOICES: dict[str, dict[str, Callable[[str], bool]]] = {
    "map": {"metric": lambda text: text in list_metrics()},
    "trials": {"status": lambda text: text in TRIAL_STATUSES, "page": lambda text: text.isdecimal() and len(text) < 6},
}
_NAMED = ("table", "text", "trial")  # parts of which there are several
_SHADES = 8


@dataclass(frozen=True)
class Slot:
    """A place on the page for a part that is fetched when it is seen: a chart, a picture or a table.

    `note` says what of the title it is about: a cell.
    """

    kind: str
    name: str
    title: str
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class PageSection:
    """A section of the page, in the order of the report."""

    id: str
    title: str
    slots: tuple[Slot, ...]

    @property
    def groups(self) -> list[list[Slot]]:
        """Its slots; pictures of the same title stand together, as in the report."""
        found: dict[str, list[Slot]] = {}
        for slot in self.slots:
            found.setdefault(f"{slot.kind} {slot.title if slot.kind == 'figure' else slot.name}", []).append(slot)
        return list(found.values())


@cache
def templates() -> jinja2.Environment:
    """The page's templates and the report's."""
    return build_templates("study.page", "analysis.report")


def plan_sections(study: LiveStudy) -> list[PageSection]:
    """What the page has room for, in the order of the report; nothing is built yet."""
    found: dict[str, list[Slot]] = {}
    for kind, subject in plan_figures(study):
        if kind.name == "grid_heatmap":
            continue  # the map of the page is its own part
        name, title = kind.name + subject.suffix, kind.title_of(subject)
        if kind.chart is not None and subject.cell is None:
            slot = Slot("chart", name, title, kind.caption_of(study, subject))
        else:  # its caption may tell numbers: it comes with the picture
            slot = Slot("figure", name, title, note=subject.cell.label if subject.cell else "")
        found.setdefault(kind.section, []).append(slot)
    for name, table in table_kinds(search=study.info.search is not None).items():
        if table.applies(study) and name != "trials":
            title = table.title if isinstance(table.title, str) else table.title(study)
            found.setdefault(table.section, []).append(Slot("table", name, title))
    for name in ("verdict", "confounds", "trials"):  # they have parts of their own
        found.setdefault(name, [])
    names = sorted(found, key=lambda name: (section_place(name), name))
    return [PageSection(name, section_title(name), tuple(found[name])) for name in names]


def render_block(watched: WatchedStudy, study_name: str, name: str, query: Mapping[str, str]) -> str:
    """One part of the page of a study, which is called `study_name` there, as HTML. Errors: LookupError for a part that there is not; StudyFolderError."""
    kind, _, rest = name.partition("-")
    if kind == "figure":
        picture = watched.picture(rest)
        return show_invisible(str(_macros().picture_box(picture, picture.title)))
    choices = _CHOICES.get(kind, {})
    query = {key: text for key, text in query.items() if key in choices and choices[key](text)}
    key = f"{name}?{sorted(query.items())}"  # what is built is kept by it
    query["study"] = study_name
    build = {
        "verdict": _answer, "findings": _findings, "map": _map, "table": _table, "text": _texts, "trials": _trials,
        "trial": _trial, "environment": _environment,
    }.get(kind)  # fmt: skip
    if build is None or (rest and kind not in _NAMED):
        raise LookupError(f"no part {name!r}")
    if kind == "text" and rest not in {section.id for section in watched.ask("sections", plan_sections)}:
        raise LookupError(f"no section {rest!r}")
    text: str = watched.ask(key, lambda study: show_invisible(build(study, rest, query)))
    return text


def _macros() -> Any:
    return templates().get_template("blocks.html").module


def _is_live(study: LiveStudy) -> bool:
    return bool(study.trials["status"].isin(["running", "pending"]).any())


def _build_verdict(study: Study, *tables: str) -> Verdict:
    names = [name for name in tables if name in table_kinds() and table_kinds()[name].applies(study)]
    return build_verdict(study, build_tables(study, names) if names else {}, [], find_study_confounds(study)[0])


def _answer(study: LiveStudy, rest: str, query: Mapping[str, str]) -> str:
    return str(
        _macros().answer_block(_build_verdict(study), _is_live(study))
    )  # needs no table, and no records of layers


def _findings(study: LiveStudy, rest: str, query: Mapping[str, str]) -> str:
    verdict = _build_verdict(study, "comparison", "pairwise", "claims")
    if _is_live(study):  # the section of trials has them
        verdict = dataclasses.replace(verdict, unfinished=())
    return str(_macros().findings_block(verdict))


def _environment(study: LiveStudy, rest: str, query: Mapping[str, str]) -> str:
    return str(_macros().environment_list(build_environment(study)))


def _table(study: LiveStudy, name: str, query: Mapping[str, str]) -> str:
    if name not in table_kinds(search=study.info.search is not None):
        raise LookupError(f"no table {name!r}")
    table = build_page_table(build_tables(study, [name])[name], study_notes(study))
    url = f"/api/studies/{quote(query['study'], safe='')}/tables/{name}.csv"
    return str(_macros().result_table(dataclasses.replace(table, csv_url=url)))


def _texts(study: LiveStudy, section: str, query: Mapping[str, str]) -> str:
    confounds, grid = find_study_confounds(study)
    grid = grid if section == "confounds" else ""
    texts = section_texts(study, section, confounds, left_out_note(study))
    return str(_macros().section_head(texts, grid, grid_file_url(grid), study.info.name))


def _map(study: LiveStudy, rest: str, query: Mapping[str, str]) -> str:
    """The grid as a map of its cells in any metric that a trial has."""
    values = study.derive(summarize_trials)
    known = [metric for metric in list_metrics().values() if values[metric.name].notna().any()]
    metric = next((metric for metric in known if metric.name == query.get("metric")), None)
    try:
        grid = build_grid_map(study, metric)
    except NothingToDraw as error:
        return str(Markup('<p class="left-out">{}.</p>').format(str(error).capitalize()))
    ranked = len(grid.cells) > 2 and bool(grid.metric.better)  # of two cells their comparison says more
    return (
        templates()
        .get_template("map.html")
        .render(grid=grid, metrics=known, ranked=ranked, fields=_fields(grid, ranked))
    )


def _fields(grid: GridMap, ranked: bool) -> list[list[dict[str, Any] | None]]:
    """The map's fields by row and column, None where the grid has no cell."""
    fields: list[list[dict[str, Any] | None]] = [[None] * len(grid.columns) for _ in grid.rows]
    for cell in grid.cells.to_dict("records"):
        known = math.isfinite(cell["mean"])
        best = ranked and known and cell["may_be_best"]
        fields[cell["row"]][cell["column"]] = {
            "told": cell["label"] + (format_behind(grid.metric, cell) if ranked else ""), "shade": round(cell["share"] * _SHADES) if known else "none",
            "mean": format_mean(grid.metric, cell, interval=False) if known else "-",
            "interval": format_interval(grid.metric, cell) if known else "no seed yet", "best": best,
            "verdict": "may be the best" if best else "worse than the best" if ranked and known else "",
        }  # fmt: skip
    return fields


def list_trials(study: LiveStudy) -> pd.DataFrame:
    """The trials as they are, searched ones and branches too: running ones first, then what failed, then the rest."""
    searched, branches = study.search_trials, study.branches
    labels = [f"Search trial {(seed - FIRST_SEARCH_SEED) % MAX_SEARCH_TRIALS}" for seed in searched["seed"]]
    told = (branches[f"config.branch_{name}"] for name in ("epoch", "batch_size", "scaling"))
    branched = branches.assign(label=[describe_branch(*values) for values in zip(*told, strict=True)])
    frames = [one for one in (study.trials, searched.assign(label=labels), branched) if len(one)]
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0] if frames else study.trials
    order = {"running": 0, "failed": 1, "diverged": 2, "pending": 4}
    return (
        frame.assign(_order=frame["status"].map(order).fillna(3))
        .sort_values("_order", kind="stable")
        .drop(columns="_order")
    )


def _trials(study: LiveStudy, rest: str, query: Mapping[str, str]) -> str:
    frame = list_trials(study)
    counts = frame["status"].value_counts().to_dict()
    status = query.get("status", "")
    chosen = frame[frame["status"] == status] if status in counts else frame
    last = max(0, (len(chosen) - 1) // TRIALS_ON_A_PAGE)
    page = min(int(query["page"]), last) if query.get("page", "").isdecimal() else 0
    shown = chosen.iloc[page * TRIALS_ON_A_PAGE : (page + 1) * TRIALS_ON_A_PAGE]
    return templates().get_template("trials.html").render(
        trials=[_trial_row(row) | _last_failure(study, row) for row in shown.to_dict("records")], counts=counts, status=status if status in counts else "",
        page=page, last=last, num=len(frame),
    )  # fmt: skip


def _last_failure(study: LiveStudy, row: Mapping[Any, Any]) -> dict[str, str]:
    """Why the last attempt failed, of a trial that is tried again and has no reason of its own."""
    if not row["failures"] or isinstance(row["reason"], str):
        return {}
    state = study.read_trial_state(row["trial_id"])
    return {"reason": state.failures[-1]} if state and state.failures else {}


def _trial_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    text = {
        name: "" if pd.isna(row[name]) else str(row[name])
        for name in ("label", "status", "reason", "hostname", "hardware")
    }
    gpu = row["gpu_ids"] if isinstance(row["gpu_ids"], str) else ""
    return text | {
        "id": row["trial_id"], "seed": row["seed"], "epochs": f"{row['epochs_completed']} of {_last_epoch(row)}",
        "attempts": row["attempts"], "failures": row["failures"], "device": f"GPU {gpu}" if gpu else "CPU",
    }  # fmt: skip


def _last_epoch(row: Mapping[Any, Any]) -> int:
    first = int(row["config.branch_epoch"])
    return first + int(row["config.branch_epochs"]) if first else int(row["config.epochs"])


def _trial(study: LiveStudy, trial_id: str, query: Mapping[str, str]) -> str:
    """All that is known of one trial: why attempts failed, what was noted, and a line for each epoch."""
    frame = list_trials(study)
    rows = frame[frame["trial_id"] == trial_id].to_dict("records")
    if not rows:
        raise LookupError(f"no trial {trial_id!r}")
    state = study.read_trial_state(trial_id)
    lines = [_epoch_line(row, _last_epoch(rows[0])) for row in study.read_trial_epochs(trial_id).to_dict("records")]
    return (
        templates()
        .get_template("trial.html")
        .render(
            trial=_trial_row(rows[0]),
            failures=state.failures if state else (),
            notes=state.notes if state else (),
            lines=lines,
        )
    )


def _epoch_line(row: Mapping[Any, Any], epochs: int) -> str:
    """As the driver prints it."""
    parts = [f"epoch {row['epoch']}/{epochs}"]
    for name in ("train", "val", "test"):
        if pd.notna(row[f"{name}_loss"]):
            accuracy = format_value(float(row[f"{name}_accuracy"]), "accuracy")
            parts.append(f"{name} {row[f'{name}_loss']:.3f} {accuracy}%")
    return "  ".join([*parts, f"{row['images_per_s']:.0f} img/s"])
