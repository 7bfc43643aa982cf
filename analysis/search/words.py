"""A search in words, and its fields and objectives as columns of tables. Knows no files and no figures."""

from __future__ import annotations

import numpy as np

from analysis.records.factors import field_title
from analysis.records.frames import FINISHED
from analysis.results.result_table import ColumnKind, TableColumn
from analysis.search.history import Search

_KINDS: dict[str, ColumnKind] = {
    "learning_rate": "learning_rate", "batch_size": "count", "epochs": "count", "warmup_epochs": "count",
}  # fmt: skip


def describe_search(search: Search) -> tuple[str, ...]:
    """What was searched and what it took, in sentences."""
    trials, description = search.trials, search.description
    counts = trials["status"].value_counts()
    order = [FINISHED, *sorted(set(counts.index) - {FINISHED})]
    listed = ", ".join(f"{counts[status]} {status}" for status in order if status in counts)
    records = search.study.search_trials
    planned = records.loc[records["trial_id"].isin(trials["trial_id"]), "config.epochs"].sum()
    used = int(trials["epochs"].sum())
    saved = f" of {int(planned):,} that all of them would have taken" if planned > used else ""
    sentences = [
        f"{description.sampler} sampler, {description.pruner} pruner; asked: {description.describe_budget() or 'no budget given'}. "
        f"{len(trials)} trials{f': {listed}' if listed else ''}; {used:,} epochs{saved}.",
    ]
    if len(search.completed) and len(search.objective_columns) == 1:
        best = search.ranked.iloc[0]
        value = float(best["objective_1"])
        shown = f"{100 * value:.2f} %" if search.objectives[0].kind == "accuracy" else f"{value:.4g}"
        sentences.append(f"Best {search.title()}: {shown}, trial {int(best['number'])}.")
    return tuple(sentences)


def parameter_columns(search: Search) -> tuple[TableColumn, ...]:
    """The searched fields as columns."""
    columns = []
    for name, column in search.parameter_columns.items():
        numbers = (
            search.trials[column]
            .dropna()
            .map(lambda v: isinstance(v, (int, float, np.number)) and not isinstance(v, bool))
        )
        kind: ColumnKind = _KINDS.get(name, "number") if bool(numbers.all()) else "text"
        columns.append(TableColumn(column, field_title(name), kind))
    return tuple(columns)
