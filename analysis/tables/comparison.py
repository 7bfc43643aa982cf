"""The table `comparison`: the cells side by side, with every metric and what was published."""

from __future__ import annotations

import pandas as pd

from analysis.metrics import list_metrics
from analysis.records.frames import Study
from analysis.records.summary import summarize_cells, timing_note
from analysis.results.cell_columns import add_factors, factor_columns
from analysis.results.result_table import TableColumn, TableContent, TableKind


def build_comparison(study: Study) -> TableContent:
    """One row per cell: every metric as mean and standard deviation over seeds, the published value beside it."""
    cells = summarize_cells(study)
    frame = cells[["cell_id", "seeds"]].copy()
    columns = [*factor_columns(study), TableColumn("seeds", "seeds", "count")]
    for metric in list_metrics().values():
        if metric.optional and not cells[f"{metric.name}_n"].any():
            continue
        mean, spread = f"{metric.name}_mean", f"{metric.name}_sd"
        frame[mean], frame[spread] = cells[mean], cells[spread]
        columns.append(TableColumn(mean, metric.title, metric.kind, spread=spread))
        published = [cell.published.get(metric.name) for cell in study.info.cells]
        if any(value is not None for value in published):
            frame[f"{metric.name}_published"] = pd.Series(published, dtype="float64")
            columns.append(TableColumn(f"{metric.name}_published", f"published {metric.title}", metric.kind))
    notes = ["Mean ± standard deviation over seeds; a single seed has no spread.", timing_note(study)]
    return TableContent(add_factors(study, frame), tuple(columns), tuple(notes))


TABLE = TableKind(
    name="comparison",
    section="comparison",
    position=10,
    title="Comparison of the cells",
    build=build_comparison,
    wandb=True,
)
