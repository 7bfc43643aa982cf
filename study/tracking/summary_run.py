"""The summary run of a study: its aggregated tables as wandb.Table and the figures that compare its cells.

Its id follows from the study, so that a study that went on updates its run; where neither tables nor figures have
changed nothing is sent. The figures are those of the report.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from analysis.figures import summary_figures
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from analysis.report.page import write_report
from analysis.results.formats import to_csv
from analysis.results.result_table import ResultTable
from analysis.tables import build_tables, table_kinds
from study.tracking.connection import Connection


def write_summary_run(folder: StudyFolder, connection: Connection) -> bool:
    """Write or update the summary run; False where it is up to date. Errors: WandbUnavailable, StudyFolderError."""
    study = folder.read_study()
    tables = build_tables(folder, summary_tables())
    figures = _comparison_figures(folder)
    digest = hashlib.sha256("".join(to_csv(table) for table in tables.values()).encode())
    for path in figures:
        digest.update(path.read_bytes())
    config = {
        "study": study.name, "title": study.title, "factors": list(study.factors), "seeds": list(study.seeds),
        "cells": [cell.label for cell in study.cells],
    }  # fmt: skip
    identity = hashlib.sha256(f"{study.name} {study.created_at}".encode()).hexdigest()[:16]
    run = connection.open_run(f"summary-{identity}", f"summary of {study.name}", config, job_type="summary")
    if run.summary_value("content") == digest.hexdigest():
        run.finish(exit_code=0)
        return False
    readable = {f"tables/{name}": build_readable_frame(table) for name, table in tables.items()}
    run.write(readable | {f"figures/{path.stem}": path for path in figures}, run.first_step)
    run.set_summary("content", digest.hexdigest())
    run.finish(exit_code=0)
    return True


def summary_tables() -> list[str]:
    """The names of the tables that the run holds."""
    return [name for name, kind in table_kinds().items() if kind.wandb]


def build_readable_frame(table: ResultTable) -> pd.DataFrame:
    """A table's numbers under the headers that people read, fractions in percent, missing ones None."""
    columns: dict[str, list[object]] = {}
    for column in table.columns:
        scale = 100 if column.kind in ("accuracy", "points", "percent") else 1
        parts = ((column.name, ""), (column.spread, " sd"), (column.low, " low"), (column.high, " high"))
        for name, suffix in parts:
            if name:
                values = table.frame[name].astype(object)
                columns[column.title + suffix] = [
                    None if pd.isna(v) else v * scale if isinstance(v, float) else v for v in values
                ]
    return pd.DataFrame(columns, dtype=object)


def _comparison_figures(folder: StudyFolder) -> list[Path]:
    """The report's figures that are about the whole study; the report is written where trials went on since."""
    page = folder.report / "index.html"
    newest = max((path.stat().st_mtime for path in folder.trials.glob("*/trial.json")), default=0.0)
    if not page.exists() or page.stat().st_mtime < newest:
        write_report(folder)
    paths = (folder.figures / f"{name}.png" for name in summary_figures(load_study(folder)))
    return sorted(path for path in paths if path.exists())
