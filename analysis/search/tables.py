"""The tables of a search: search_trials, search_importances, search_winners. Knows no files and no figures."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.records.frames import FINISHED, Study
from analysis.results.result_table import Column, ColumnKind, ResultTable
from analysis.search.dynamics import QUANTITIES
from analysis.search.history import Search, load_search
from analysis.search.importances import FEWEST_TRIALS, load_importances
from analysis.search.winners import compare_contenders, list_contenders, names_of

_KINDS: dict[str, ColumnKind] = {
    "learning_rate": "learning_rate", "batch_size": "count", "epochs": "count", "warmup_epochs": "count",
}  # fmt: skip
NEVER_TESTED = (
    "Search trials are scored on held-out training images; the test set is for the confirmation of the winners."
)


def build_search_trials(study: Study) -> ResultTable:
    """One row per trial of the search in its order, then those that confirm what it found."""
    search = load_search(study)
    names = names_of(list_contenders(search))
    frame = search.trials.assign(role="search", chosen=search.trials["number"].map(names).fillna(""))
    frame = pd.concat([frame, _confirmations(search)], ignore_index=True) if len(study.trials) else frame
    objectives = [
        Column(column, search.title(place), search.objectives[place].kind)
        for place, column in enumerate(search.objective_columns)
    ]
    columns = (
        Column("number", "trial", "count"), *parameter_columns(search), Column("role", "role"), Column("source", "source"),
        Column("status", "status"), Column("reason", "reason"), *objectives, Column("epochs", "epochs", "count"),
        Column("seconds", "wall time", "seconds"), Column("chosen", "chosen"), Column("trial_id", "id"),
    )  # fmt: skip
    notes = [
        NEVER_TESTED,
        "enqueued: a cell of the study, as published ones are, tried first; sampled: proposed by the sampler.",
    ]
    return ResultTable("", "Trials of the search", frame, columns, (*describe_search(search), *notes))


def build_search_importances(study: Study) -> ResultTable:
    """What goes along with the objective, with the spread that a small number of trials leaves."""
    search = load_search(study)
    frame = load_importances(search).copy()
    frame.insert(1, "title", [QUANTITIES.get(name, name.replace("_", " ")) for name in frame["quantity"]])
    columns = (
        Column("kind", "kind"), Column("target", "for"), Column("title", "quantity"),
        Column("importance", "importance [range over resamples]", "number", low="low", high="high"),
        Column("chance", "reached by chance", "number"), Column("above_chance", "more than chance", "flag"),
        Column("rank_correlation", "rank correlation", "number"), Column("p_value", "p", "p_value"),
        Column("trials", "trials", "count"),
    )  # fmt: skip
    if frame.empty:
        notes = [f"Fewer than {FEWEST_TRIALS} completed trials, or nothing that varies: no importances."]
    else:
        notes = [
            f"Associations with {search.title()}, not effects: the early dynamics follow from the hyperparameters, and of "
            "pruned trials the final value is not known.",
            "Twice where trials were pruned: for the final value among completed trials, and for the value after the last epoch "
            "that nearly all trials reached, pruned ones included. What was measured in those same epochs foretells nothing then.",
            "Importance: share of a random forest's variance that the quantity explains by itself (fANOVA, on the scale that "
            "is searched). In brackets: 90 % over resampled trials, widened where that misses the importance itself. Reached by "
            "chance: its 95 % point with the objective shuffled; below it, read nothing into the row.",
            "Training dynamics: means over the first fifth of the epochs. Rank correlation: Spearman's, p not corrected.",
            f"Sampler {search.description.sampler}: trials of a sampler other than random crowd where the objective is good, which hides what "
            "matters elsewhere.",
        ]
    return ResultTable("", f"What goes along with {search.title()}", frame, columns, tuple(notes))


def build_search_winners(study: Study) -> ResultTable:
    """The winners on the test set, against the cells that the study was given, published ones among them."""
    search = load_search(study)
    frame = compare_contenders(search)
    for name in ("difference", "low", "high", "shrinkage", "shrinkage_low", "shrinkage_high"):
        frame[f"shown_{name}"] = frame[name] * 100
    columns = (
        Column("what", "what"), Column("parameters", "configuration"), Column("number", "trial", "count"),
        Column("searched", f"{search.title()} when chosen", search.objectives[0].kind),
        Column("seeds", "seeds", "count"), Column("test_mean", "final test accuracy", "accuracy", spread="test_sd"),
        Column("shown_shrinkage", "lost since, points [95 %]", "number", low="shown_shrinkage_low",
               high="shown_shrinkage_high"),
        Column("against", "against"), Column("verdict", "verdict"),
        Column("shown_difference", "winner less other, points [95 %, t]", "number", low="shown_low", high="shown_high"),
        Column("p_holm", "p (Holm)", "p_value"), Column("p_equivalence_holm", "p equivalence (Holm)", "p_value"),
    )  # fmt: skip
    margin = f"{100 * study.info.equivalence_margin:g} points"
    notes = [
        "A winner was chosen for its validation value, which is therefore too good. Confirmed: trained anew over fresh seeds "
        "on all training images, scored on the test set. Lost since: the value it was chosen for less the confirmed mean. A winner "
        "without such a value had been pruned: too few trials completed.",
        "The given cells (published, where numbers of theirs were) were searched without being chosen: what they lose (or gain) is due "
        "to other images and "
        "more of them. What a winner loses beyond that is the luck it was chosen for.",
        f"Verdicts by paired t tests over common seeds, margin {margin}, Holm's correction over the rows of this table alone; "
        "the pairwise table corrects over all of its own.",
    ]
    if len(search.objective_columns) > 1:
        notes.append("Two objectives: the winners are those of the Pareto front that are best in the first one.")
    return ResultTable("", "Winners of the search, confirmed", frame, columns, tuple(notes))


BUILDERS = {
    "search_winners": build_search_winners,
    "search_importances": build_search_importances,
    "search_trials": build_search_trials,
}


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
    done = search.completed
    if len(done) and len(search.objective_columns) == 1:
        best = done.sort_values("objective_1", ascending=search.is_better() < 0).iloc[0]
        value = float(best["objective_1"])
        shown = f"{100 * value:.2f} %" if search.objectives[0].kind == "accuracy" else f"{value:.4g}"
        sentences.append(f"Best {search.title()}: {shown}, trial {int(best['number'])}.")
    return tuple(sentences)


def parameter_columns(search: Search) -> tuple[Column, ...]:
    """The searched fields as columns."""
    columns = []
    for name, column in search.parameter_columns.items():
        numbers = (
            search.trials[column]
            .dropna()
            .map(lambda v: isinstance(v, (int, float, np.number)) and not isinstance(v, bool))
        )
        kind: ColumnKind = _KINDS.get(name, "number") if bool(numbers.all()) else "text"
        columns.append(Column(column, name.replace("_", " "), kind))
    return tuple(columns)


def _confirmations(search: Search) -> pd.DataFrame:
    """The trials that confirm winners and given cells, in the columns of the searched ones."""
    trials = search.study.trials
    own = trials[trials["role"] == "confirmation"]
    return pd.DataFrame({
        **{column: own[column] for column in search.parameter_columns.values()}, "role": own["role"], "source": "",
        "status": own["status"], "reason": own["reason"].fillna(""), "epochs": own["epochs_completed"].fillna(0),
        "seconds": own["wall_time_s"], "chosen": own["label"], "trial_id": own["trial_id"],
    })  # fmt: skip
