"""Which cells differ, metric by metric, and by how much.

Every pair of cells is compared on the seeds that both completed. The primary metric is a family of its own; all the others are
a second one. Above `MOST_CELLS_IN_PAIRS` cells only against the first cell of the study, which is fixed before any result is
known: all pairs would be too many to correct for, or to read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import statistics
from analysis.metrics import Metric, list_metrics
from analysis.records.frames import Study
from analysis.records.study_json import PRIMARY_METRIC
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
    name = study.info.primary_metric if study.info.primary_metric in metrics else PRIMARY_METRIC
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


def compare_in_families(
    study: Study, measure: Callable[[Metric], npt.NDArray[np.float64]]
) -> Iterator[tuple[Metric, statistics.Comparisons, float]]:
    """Each metric with what `measure` gives of it (comparisons x seeds) compared, and its margin of equivalence; the primary first.

    The primary metric is a family of its own, all others are a second one. The margin is about fractions: other metrics have none
    (NaN). A study that looks repeatedly spends a share of the error at each look.
    """
    metrics, stopping = list_compared(study), study.info.stopping
    for number, metric in enumerate(metrics):
        values = measure(metric)
        family, seeds = len(values) * (1 if number == 0 else len(metrics) - 1), np.isfinite(values).sum(axis=1)
        spent = 1.0 if stopping is None else statistics.spend(seeds, stopping["first"], stopping["most"], family)
        margin = study.info.equivalence_margin if metric.in_percent else float("nan")
        yield metric, statistics.compare_paired(values, family, spent), margin


def compare_cells(study: Study) -> pd.DataFrame:
    """One row per metric and pair of cells, the primary metric first; differences are the first cell less the second."""
    pairs = list_pairs(list(study.cells))
    if not pairs:
        return _empty()
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))

    def differences(metric: Metric) -> npt.NDArray[np.float64]:
        values = values_by_seed(study, metric.name)
        return np.asarray(values.loc[first].to_numpy() - values.loc[second].to_numpy(), dtype=np.float64)

    compared = compare_in_families(study, differences)
    parts = [_describe(study, metric, pairs, differences(metric), found, margin) for metric, found, margin in compared]
    return pd.concat(parts, ignore_index=True) if parts else _empty()


def compare_primary(study: Study) -> pd.DataFrame:
    """The rows of `compare_cells` in the primary metric."""
    frame = study.derive(compare_cells)
    return frame[frame["primary"].astype(bool)].reset_index(drop=True)


_COLUMNS = (
    "metric", "primary", "cell_a", "cell_b", "label_a", "label_b", "seeds", "difference", "sd", "low", "high", "p", "margin",
    "verdict", "effect_size", "effect_low", "effect_high", "chance", "chance_low", "chance_high", "wins", "more_seeds", "reason",
)  # fmt: skip


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=object) for name in _COLUMNS})


def _describe(
    study: Study, metric: Metric, pairs: Sequence[tuple[str, str]], differences: npt.NDArray[np.float64],
    found: statistics.Comparisons, margin: float,
) -> pd.DataFrame:  # fmt: skip
    """The rows of one metric."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    effects = statistics.measure_effects(found)
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
