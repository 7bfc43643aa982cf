"""Main effects and interactions of a factorial study, with intervals over seeds.

An effect is computed within each seed, where all cells share initialisation and order of images, and then averaged over the
seeds that completed every cell. Only a full factorial grid allows it; of any other there are none.
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
from analysis.comparison.pairs import compare_in_families, find_primary, values_by_seed
from analysis.metrics import Metric
from analysis.records.factors import field_title
from analysis.records.frames import Study
from analysis.records.study_json import Cell


@dataclass(frozen=True)
class Effect:
    """A contrast: cells weighted so that the sum over cells is the effect. `kind` is main effect or interaction."""

    kind: str
    factor: str  # of a main effect, empty for an interaction
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
    """One row per metric and effect, the primary metric first: metric, primary, kind, effect, factor, seeds, value [low, high], p,
    margin, verdict. The effects on the primary metric are a family of their own, those on all others a second one."""
    effects = list_effects(study.info.cells, study.info.factors)
    if not effects:
        return pd.DataFrame(columns=list(_COLUMNS))

    def contrasts(metric: Metric) -> np.ndarray:
        by_seed = values_by_seed(study, metric.name).to_numpy(dtype=np.float64)
        return np.array([effect.weights[used] @ by_seed[used] for effect in effects for used in [effect.weights != 0]])

    primary, parts = find_primary(study), []
    for metric, found, margin in compare_in_families(study, contrasts):
        columns = {
            "metric": metric.name, "primary": metric == primary, "kind": [effect.kind for effect in effects],
            "factor": [effect.factor for effect in effects], "effect": [effect.text for effect in effects],
            "seeds": found.num_seeds, "value": found.mean, "sd": found.sd, "low": found.low, "high": found.high, "p": found.p,
            "margin": margin, "verdict": statistics.decide(found, margin),
        }  # fmt: skip
        parts.append(pd.DataFrame(columns, columns=list(_COLUMNS)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(_COLUMNS))


_COLUMNS = (
    "metric", "kind", "factor", "effect", "seeds", "value", "sd", "low", "high", "p", "margin", "verdict", "primary",
)  # fmt: skip


def _is_full(cells: Sequence[Cell], levels: Mapping[str, Sequence[Any]]) -> bool:
    found = {tuple(cell.config[factor] for factor in levels) for cell in cells}
    return len(found) == len(cells) == math.prod(len(values) for values in levels.values())


def _main_effects(cells: Sequence[Cell], levels: Mapping[str, Sequence[Any]]) -> list[Effect]:
    effects = []
    for factor, (first, *others) in levels.items():
        for other in others:
            weights = _mean_of(cells, {factor: other}) - _mean_of(cells, {factor: first})
            effects.append(Effect("main effect", factor, f"{field_title(factor)} {first} to {other}", weights))
    return effects


def _interactions(cells: Sequence[Cell], levels: Mapping[str, Sequence[Any]]) -> list[Effect]:
    effects = []
    for (a, (a0, *a_others)), (b, (b0, *b_others)) in itertools.combinations(levels.items(), 2):
        for a1, b1 in itertools.product(a_others, b_others):
            late = _mean_of(cells, {a: a1, b: b1}) - _mean_of(cells, {a: a0, b: b1})
            early = _mean_of(cells, {a: a1, b: b0}) - _mean_of(cells, {a: a0, b: b0})
            text = f"{field_title(a)} {a0} to {a1}, at {field_title(b)} {b1} less at {b0}"
            effects.append(Effect("interaction", "", text, late - early))
    return effects


def _mean_of(cells: Sequence[Cell], chosen: Mapping[str, Any]) -> np.ndarray:
    """Weights of the mean over the cells with these values."""
    matches = np.array([all(cell.config[f] == value for f, value in chosen.items()) for cell in cells], dtype=float)
    return np.asarray(matches / matches.sum())
