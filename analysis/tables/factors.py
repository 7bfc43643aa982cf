"""Main effects and interactions of a factorial study, with intervals over seeds: the table `factors`.

An effect is computed within each seed, where all cells share initialisation and order of images, and then averaged over the
seeds that completed every cell. Only a full factorial grid allows it; of any other the table is empty and says why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.metrics import list_metrics
from analysis.records.frames import Study
from analysis.records.study_folder import Cell
from analysis.records.summary import summarize_trials
from analysis.results.result_table import Column, TableContent, TableKind


@dataclass(frozen=True)
class Effect:
    """A contrast: cells weighted so that the sum over cells is the effect. `kind` is main effect or interaction."""

    kind: str
    text: str
    weights: np.ndarray  # one per cell of the study


def list_effects(cells: Sequence[Cell], factors: Sequence[str]) -> list[Effect]:
    """The main effects and two-factor interactions of a full factorial grid; empty for any other grid.

    Each level is held against the first one, averaged over all levels of the other factors. An interaction is how much
    such a difference changes from the first level of a second factor to another.
    """
    levels = {factor: list(dict.fromkeys(cell.config[factor] for cell in cells)) for factor in factors}
    levels = {factor: values for factor, values in levels.items() if len(values) > 1}
    if len(levels) < 2 or not _is_full(cells, levels):
        return []
    return [*_main_effects(cells, levels), *_interactions(cells, levels)]


def measure_effects(study: Study) -> pd.DataFrame:
    """One row per effect and metric: the effect, its 95 % t interval over seeds and its Holm-corrected p-value."""
    effects = list_effects(study.info.cells, study.info.factors)
    trials = summarize_trials(study)
    metrics = [metric for metric in list_metrics().values() if metric.compared and trials[metric.name].notna().any()]
    rows = [(effect, metric) for metric in metrics for effect in effects]
    values = [_per_seed(trials, metric.name, list(study.cells), effect) for effect, metric in rows]
    tests = statistics.run_paired_tests(np.array(values) if rows else np.empty((0, 0)), math.nan)
    return pd.DataFrame(
        {
            "metric": [metric.name for _, metric in rows], "kind": [effect.kind for effect, _ in rows],
            "effect": [effect.text for effect, _ in rows], "seeds": tests.num_seeds, "value": tests.mean, "sd": tests.sd,
            "low": tests.low, "high": tests.high, "p_holm": statistics.adjust_holm(tests.p_different),
        }
    )  # fmt: skip


def build_factors(study: Study) -> TableContent:
    """The table `factors`."""
    frame = measure_effects(study)
    metrics = list_metrics()
    frame.insert(0, "title", [metrics[name].title for name in frame["metric"]])
    scale = np.where([metrics[name].in_percent for name in frame["metric"]], 100.0, 1.0)
    for name in ("value", "low", "high"):
        frame[f"shown_{name}"] = frame[name] * scale
    columns = (
        Column("title", "metric"), Column("kind", "kind"), Column("effect", "effect"), Column("seeds", "seeds", "count"),
        Column("shown_value", "change [95 %]", "number", low="shown_low", high="shown_high"),
        Column("p_holm", "p (Holm)", "p_value"),
    )  # fmt: skip
    if frame.empty:
        notes = ["No full factorial grid of two factors or more: main effects and interactions cannot be told apart."]
    else:
        notes = [
            "Accuracies in percentage points, losses in nats; over the seeds that completed every cell.",
            "Main effect: averaged over the levels of the other factors. Interaction: how much the first factor's effect "
            "changes with the second. Intervals are not corrected for their number, p-values are.",
        ]
    return TableContent(frame, columns, tuple(notes))


def _is_full(cells: Sequence[Cell], levels: Mapping[str, Sequence[Any]]) -> bool:
    found = {tuple(cell.config[factor] for factor in levels) for cell in cells}
    return len(found) == len(cells) == math.prod(len(values) for values in levels.values())


def _main_effects(cells: Sequence[Cell], levels: Mapping[str, Sequence[Any]]) -> list[Effect]:
    effects = []
    for factor, (first, *others) in levels.items():
        for other in others:
            weights = _mean_of(cells, {factor: other}) - _mean_of(cells, {factor: first})
            effects.append(Effect("main effect", f"{_words(factor)} {first} to {other}", weights))
    return effects


def _interactions(cells: Sequence[Cell], levels: Mapping[str, Sequence[Any]]) -> list[Effect]:
    effects = []
    for (a, (a0, *a_others)), (b, (b0, *b_others)) in itertools.combinations(levels.items(), 2):
        for a1, b1 in itertools.product(a_others, b_others):
            late = _mean_of(cells, {a: a1, b: b1}) - _mean_of(cells, {a: a0, b: b1})
            early = _mean_of(cells, {a: a1, b: b0}) - _mean_of(cells, {a: a0, b: b0})
            text = f"{_words(a)} {a0} to {a1}, at {_words(b)} {b1} less at {b0}"
            effects.append(Effect("interaction", text, late - early))
    return effects


def _mean_of(cells: Sequence[Cell], chosen: Mapping[str, Any]) -> np.ndarray:
    """Weights of the mean over the cells with these values."""
    matches = np.array([all(cell.config[f] == value for f, value in chosen.items()) for cell in cells], dtype=float)
    return np.asarray(matches / matches.sum())


def _per_seed(trials: pd.DataFrame, metric: str, cell_ids: Sequence[str], effect: Effect) -> np.ndarray:
    """The effect in each seed; NaN where one of its cells has no value."""
    values = trials.pivot(index="seed", columns="cell_id", values=metric).reindex(columns=list(cell_ids)).to_numpy()
    used = effect.weights != 0
    return np.asarray(values[:, used] @ effect.weights[used], dtype=np.float64)


def _words(factor: str) -> str:
    return factor.replace("_", " ")


TABLE = TableKind(
    name="factors",
    section="comparison",
    position=30,
    title="Main effects and interactions",
    build=build_factors,
)
