"""Whole studies drawn from populations of known truth: accuracies of cells x seeds, with a luck of the seed that cells share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from analysis.comparison.pairs import values_by_seed
from analysis.records.frames import load_study

Array = npt.NDArray[np.float64]
KINDS = ("normal", "skewed", "heavy-tailed", "unequal", "resampled")
EXAMPLE = Path(__file__).parents[2] / "examples" / "factorial-small"
SD = 0.004


def draw_seeds(kind: str, means: Array, seeds: int, random: np.random.Generator) -> Array:
    """Cells x seeds: `means` (one per cell) plus a luck that all cells of a seed share plus the cell's own, each of SD.

    resampled: what the seeds of the example study (real data) deviate from the mean of their cell by, drawn again and again and
    scaled alike. normal; skewed (a shifted exponential); heavy-tailed (Student's t with 3 degrees of freedom); unequal (normal, the last
    cell's own spread five times that of the first).
    """
    shape = (len(means), seeds)
    if kind == "resampled":
        own = random.choice(_real_deviations(), shape)
    elif kind == "skewed":
        own = random.exponential(SD, shape) - SD
    elif kind == "heavy-tailed":
        own = random.standard_t(3, shape) * SD / np.sqrt(3)
    else:
        own = random.normal(0, SD, shape)
    if kind == "unequal":
        own *= np.linspace(1, 5, len(means))[:, None]
    return np.asarray(means[:, None] + random.normal(0, SD, (1, seeds)) + own)


@cache
def _real_deviations() -> Array:
    """Final test accuracies of the example study less the mean of their cell, with the standard deviation SD."""
    values = values_by_seed(load_study(EXAMPLE), "final_test_accuracy").to_numpy(dtype=np.float64)
    deviations = (values - values.mean(axis=1, keepdims=True)).ravel()
    return np.asarray(deviations * SD / deviations.std())
