"""The table `search_trials`: every trial of a search, and those that confirm what it found."""

from __future__ import annotations

import pandas as pd

from analysis.records.frames import Study
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.search.history import Search, load_search
from analysis.search.winners import list_contenders, names_of
from analysis.search.words import describe_search, parameter_columns

NEVER_TESTED = (
    "Search trials are scored on held-out training images; the test set is for the confirmation of the winners."
)


def build_search_trials(study: Study) -> TableContent:
    """One row per trial of the search in its order, then those that confirm what it found."""
    search = load_search(study)
    names = names_of(list_contenders(search))
    frame = search.trials.assign(role="search", chosen=search.trials["number"].map(names).fillna(""))
    frame = pd.concat([frame, _confirmations(search)], ignore_index=True) if len(study.trials) else frame
    objectives = [
        TableColumn(column, search.title(place), search.objectives[place].kind)
        for place, column in enumerate(search.objective_columns)
    ]
    columns = (
        TableColumn("number", "trial", "count"), *parameter_columns(search), TableColumn("role", "role"), TableColumn("source", "source"),
        TableColumn("status", "status"), TableColumn("reason", "reason"), *objectives, TableColumn("epochs", "epochs", "count"),
        TableColumn("seconds", "wall time", "seconds"), TableColumn("chosen", "chosen"), TableColumn("trial_id", "id"),
    )  # fmt: skip
    notes = [
        NEVER_TESTED,
        "enqueued: a cell of the study, as published ones are, tried first; sampled: proposed by the sampler.",
    ]
    return TableContent(frame, columns, (*describe_search(search), *notes))


def _confirmations(search: Search) -> pd.DataFrame:
    """The trials that confirm winners and given cells, in the columns of the searched ones."""
    trials = search.study.trials
    own = trials[trials["role"] == "confirmation"]
    return pd.DataFrame({
        **{column: own[column] for column in search.parameter_columns.values()}, "role": own["role"], "source": "",
        "status": own["status"], "reason": own["reason"].fillna(""), "epochs": own["epochs_completed"].fillna(0),
        "seconds": own["wall_time_s"], "chosen": own["label"], "trial_id": own["trial_id"],
    })  # fmt: skip


TABLE = TableKind(
    name="search_trials", section="search", position=30, title="Trials of the search", build=build_search_trials
)
