"""Every table of the report, by name and in reading order; each is built only when it is asked for.

The tables of one subject are built beside the code that computes them; this module holds those about the trials
themselves. Knows nothing of files or of how a number is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.claims.published import list_epoch_values
from analysis.claims.verdicts import build_claims
from analysis.records.frames import FINISHED, Study, load_study
from analysis.records.metrics import METRICS
from analysis.records.phases import shown_epochs
from analysis.records.study_folder import StudyFolder
from analysis.records.summary import hardware_of, study_notes, summarize_cells, summarize_trials, timing_note
from analysis.results.cell_columns import add_factors, factor_columns, in_study_order
from analysis.results.result_table import Column, ColumnKind, ResultTable
from analysis.tables.compute import build_compute, build_flops
from analysis.tables.costs import build_cost_flips, build_costs
from analysis.tables.dynamics import build_gradient_health, build_gradient_ranges, build_weight_update_ranks
from analysis.tables.factors import build_factors
from analysis.tables.pairwise import build_pairwise

__all__ = ["Column", "ResultTable", "build_tables", "table_names"]

_CURVES: dict[str, tuple[str, ColumnKind]] = {
    "train_loss": ("train loss", "loss"),
    "train_accuracy": ("train accuracy", "accuracy"),
    "test_loss": ("test loss", "loss"),
    "test_accuracy": ("test accuracy", "accuracy"),
    "val_loss": ("validation loss", "loss"),
    "val_accuracy": ("validation accuracy", "accuracy"),
}


def build_tables(folder: StudyFolder | Study, names: Sequence[str] | None = None) -> dict[str, ResultTable]:
    """The tables of a study by name, in reading order; only the records that the asked ones need are read.

    Those of a search are among all tables only where there was one. Errors: ValueError for an unknown name, StudyFolderError where the folder cannot be read.
    """
    if unknown := set(names or ()) - set(_BUILDERS):
        raise ValueError(f"no table {sorted(unknown)[0]!r}; the tables are {', '.join(_BUILDERS)}")
    study = folder if isinstance(folder, Study) else load_study(folder)
    notes = study_notes(study)
    tables = {}
    for name, build in _BUILDERS.items():
        if name in names if names is not None else study.info.search is not None or name not in SEARCH_TABLES:
            table = build(study)
            tables[name] = ResultTable(name, table.title, table.frame, table.columns, (*notes, *table.notes))
    return tables


def table_names(*, search: bool = False) -> tuple[str, ...]:
    """The names of all tables, in reading order; with those of a search where asked for."""
    return tuple(name for name in _BUILDERS if search or name not in SEARCH_TABLES)


def _of_search(name: str) -> Callable[[Study], ResultTable]:
    def build(study: Study) -> ResultTable:
        from analysis.search.tables import BUILDERS  # Optuna takes a second to import

        return BUILDERS[name](study)

    return build


def _build_comparison(study: Study) -> ResultTable:
    """One row per cell: every metric as mean and standard deviation over seeds, the published value beside it."""
    cells = summarize_cells(study)
    frame = cells[["cell_id", "seeds"]].copy()
    columns = [*factor_columns(study), Column("seeds", "seeds", "count")]
    for metric in METRICS.values():
        if metric.name == "final_val_accuracy" and not cells[f"{metric.name}_n"].any():
            continue
        mean, spread = f"{metric.name}_mean", f"{metric.name}_sd"
        frame[mean], frame[spread] = cells[mean], cells[spread]
        columns.append(Column(mean, metric.title, metric.kind, spread=spread))
        published = [cell.published.get(metric.name) for cell in study.info.cells]
        if any(value is not None for value in published):
            frame[f"{metric.name}_published"] = pd.Series(published, dtype="float64")
            columns.append(Column(f"{metric.name}_published", f"published {metric.title}", metric.kind))
    notes = ["Mean ± standard deviation over seeds; a single seed has no spread.", timing_note(study)]
    return ResultTable("", "Comparison of the cells", add_factors(study, frame), tuple(columns), tuple(notes))


def _build_epochs(study: Study) -> ResultTable:
    """One row per cell and epoch: mean and standard deviation of losses and accuracies over seeds."""
    usable = study.trials[study.trials["status"].isin([FINISHED, "running", "pending"])]
    epochs = study.epochs.merge(usable[["trial_id", "cell_id"]], on="trial_id")
    curves = [name for name in _CURVES if not name.startswith("val_") or epochs[name].notna().any()]
    grouped = epochs.groupby(["cell_id", "epoch"])
    frame = grouped.size().rename("seeds").to_frame()
    for name in curves:
        frame[f"{name}_mean"], frame[f"{name}_sd"] = grouped[name].mean(), grouped[name].std()
    frame = in_study_order(study, frame.reset_index(), ["epoch"])
    columns = [*factor_columns(study), Column("epoch", "epoch", "count"), Column("seeds", "seeds", "count")]
    for name in curves:
        title, kind = _CURVES[name]
        columns.append(Column(f"{name}_mean", title, kind, spread=f"{name}_sd"))
        if published := list_epoch_values(study, name):
            keys = zip(frame["cell_id"], frame["epoch"], strict=True)
            frame[f"{name}_published"] = pd.Series([published.get(key) for key in keys], dtype="float64")
            columns.append(Column(f"{name}_published", f"published {title}", kind))
    notes = ("Diverged, pruned and failed trials are left out; a trial that still runs counts as far as it is.",)
    return ResultTable("", "Losses and accuracies by epoch", add_factors(study, frame), tuple(columns), notes)


def _build_learning_rate(study: Study) -> ResultTable:
    """Learning rate after the scheduler step of the shown epochs, one row per cell and epoch."""
    wanted = {cell.cell_id: shown_epochs(int(cell.config["epochs"])) for cell in study.info.cells}
    epochs = study.epochs.merge(study.trials[["trial_id", "cell_id"]], on="trial_id")
    shown = [epoch in wanted[cell] for cell, epoch in zip(epochs["cell_id"], epochs["epoch"], strict=True)]
    frame = epochs[pd.Series(shown, dtype=bool, index=epochs.index)]
    frame = frame.groupby(["cell_id", "epoch"])["learning_rate"].mean().reset_index()
    frame = frame.rename(columns={"learning_rate": "learning_rate_after"})
    published = list_epoch_values(study, "learning_rate")
    keys = zip(frame["cell_id"], frame["epoch"], strict=True)
    frame["published"] = pd.Series([published.get(key) for key in keys], dtype="float64")
    columns = (
        *factor_columns(study), Column("epoch", "epoch", "count"),
        Column("learning_rate_after", "after the epoch", "learning_rate"), Column("published", "published", "learning_rate"),
    )  # fmt: skip
    frame = add_factors(study, in_study_order(study, frame, ["epoch"]))
    return ResultTable("", "Learning rate after the scheduler step of an epoch", frame, columns)


def _build_trials(study: Study) -> ResultTable:
    """One row per trial, whatever became of it."""
    summary, trials = summarize_trials(study), study.trials
    frame = summary[["cell_id", "seed", "status", "reason", "epochs_completed", "final_test_accuracy", "train_time_s"]]
    frame = frame.assign(hardware=hardware_of(trials), trial_id=summary["trial_id"])
    columns = (
        *factor_columns(study), Column("seed", "seed", "count"), Column("status", "status"), Column("reason", "reason"),
        Column("epochs_completed", "epochs", "count"),
        Column("final_test_accuracy", "final test accuracy", "accuracy"),
        Column("train_time_s", "train time", "seconds"), Column("hardware", "hardware"), Column("trial_id", "trial"),
    )  # fmt: skip
    return ResultTable("", "Trials", add_factors(study, frame), columns)


SEARCH_TABLES = ("search_winners", "search_importances", "search_trials")
_BUILDERS: dict[str, Callable[[Study], ResultTable]] = {
    **{name: _of_search(name) for name in SEARCH_TABLES},
    "comparison": _build_comparison,
    "pairwise": build_pairwise,
    "factors": build_factors,
    "claims": build_claims,
    "epochs": _build_epochs,
    "costs": build_costs,
    "cost_flips": build_cost_flips,
    "gradient_ranges": build_gradient_ranges,
    "gradient_health": build_gradient_health,
    "weight_update_ranks": build_weight_update_ranks,
    "flops": build_flops,
    "compute": build_compute,
    "learning_rate": _build_learning_rate,
    "trials": _build_trials,
}
