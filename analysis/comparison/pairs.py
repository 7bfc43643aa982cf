"""Which cells differ, metric by metric, and by how much.

Every pair of cells is compared on the seeds that both completed. The primary metric is a family of its own; all the others are
a second one. Above `MOST_CELLS_IN_PAIRS` cells only against the first cell of the study, which is fixed before any result is
known: all pairs would be too many to correct for, or to read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.metrics import Metric, list_metrics
from analysis.records.frames import Study
from analysis.records.summary import summarize_trials

MOST_CELLS_IN_PAIRS = 20


def list_pairs(cell_ids: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of cells that are compared, in the order of the study."""
    if len(cell_ids) <= MOST_CELLS_IN_PAIRS:
        return list(itertools.combinations(cell_ids, 2))
    return [(cell_ids[0], other) for other in cell_ids[1:]]


def find_primary(study: Study) -> Metric:
    """The metric that decides: the study's, or validation accuracy where a study without a test set has nothing else."""
    metrics, trials = list_metrics(), study.derive(summarize_trials)
    name = study.info.primary_metric if study.info.primary_metric in metrics else "final_test_accuracy"
    if not trials[name].notna().any() and trials["final_val_accuracy"].notna().any():
        name = "final_val_accuracy"
    return metrics[name]


def list_compared(study: Study) -> list[Metric]:
    """The metrics that cells are compared by, the primary one first."""
    primary, trials = find_primary(study), study.derive(summarize_trials)
    others = [m for m in list_metrics().values() if m.compared and m != primary]
    return [metric for metric in (primary, *others) if trials[metric.name].notna().any()]


def values_by_seed(study: Study, metric: str) -> pd.DataFrame:
    """Cells x seeds, in the order of the study; NaN where a trial has no value."""
    return (
        study.derive(summarize_trials).pivot(index="cell_id", columns="seed", values=metric).reindex(list(study.cells))
    )


def margin_of(study: Study, metric: Metric) -> float:
    """The margin of equivalence in a metric: it is about fractions, other metrics have none (NaN)."""
    return study.info.equivalence_margin if metric.in_percent else float("nan")


def spent_share(study: Study, num_seeds: np.ndarray, num_comparisons: int) -> np.ndarray | float:
    """The share of its error that a comparison over so many seeds may spend; all of it unless the study looks repeatedly."""
    stopping = study.info.stopping
    return (
        1.0 if stopping is None else statistics.spend(num_seeds, stopping["first"], stopping["most"], num_comparisons)
    )


def compare_cells(study: Study) -> pd.DataFrame:
    """One row per metric and pair of cells, the primary metric first; differences are the first cell less the second."""
    pairs = list_pairs(list(study.cells))
    metrics = list_compared(study) if pairs else []
    parts = [
        _compare(study, metric, pairs, 1 if number == 0 else len(metrics) - 1) for number, metric in enumerate(metrics)
    ]
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in _COLUMNS})
    return pd.concat(parts, ignore_index=True)


def compare_primary(study: Study) -> pd.DataFrame:
    """The rows of `compare_cells` in the primary metric."""
    frame = compare_cells(study)
    return frame[frame["primary"].astype(bool)].reset_index(drop=True)


_COLUMNS = (
    "metric", "primary", "cell_a", "cell_b", "label_a", "label_b", "seeds", "difference", "sd", "low", "high", "p", "margin",
    "verdict", "effect_size", "effect_low", "effect_high", "chance", "chance_low", "chance_high", "wins", "more_seeds", "reason",
)  # fmt: skip


def _compare(study: Study, metric: Metric, pairs: Sequence[tuple[str, str]], num_metrics: int) -> pd.DataFrame:
    """The pairs in one metric, which is one of `num_metrics` in its family."""
    values = values_by_seed(study, metric.name)
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    differences = np.asarray(values.loc[first].to_numpy() - values.loc[second].to_numpy(), dtype=np.float64)
    family = len(pairs) * num_metrics
    spent = spent_share(study, np.isfinite(differences).sum(axis=1), family)
    found = statistics.compare_paired(differences, family, spent)
    margin, effects = margin_of(study, metric), statistics.measure_effects(found)
    verdicts = statistics.decide(found, margin)
    sign = -1.0 if metric.better == "lower" else 1.0
    chance, *ends = effects.chance if sign > 0 else tuple(1 - part for part in effects.chance)
    labels = {cell.cell_id: cell.label for cell in study.info.cells}
    return pd.DataFrame(
        {
            "metric": metric.name, "primary": metric == find_primary(study), "cell_a": first, "cell_b": second,
            "label_a": [labels[cell] for cell in first], "label_b": [labels[cell] for cell in second],
            "seeds": found.num_seeds, "difference": found.mean, "sd": found.sd, "low": found.low, "high": found.high,
            "p": found.p, "margin": margin, "verdict": verdicts, "effect_size": effects.d, "effect_low": effects.low,
            "effect_high": effects.high, "chance": chance, "chance_low": ends[sign < 0], "chance_high": ends[sign > 0],
            "wins": (sign * differences > 0).sum(axis=1),
            "more_seeds": np.where(verdicts == "undecided", statistics.count_more_seeds(found, margin), np.nan),
            "reason": statistics.explain(found, verdicts),
        }, columns=list(_COLUMNS),
    )  # fmt: skip
