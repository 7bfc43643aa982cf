"""Whole studies drawn from populations of known truth: accuracies of cells x seeds, with a luck of the seed that cells share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
KINDS = ("normal", "skewed", "heavy-tailed", "unequal")
SD = 0.004


def draw_seeds(kind: str, means: Array, seeds: int, random: np.random.Generator) -> Array:
    """Cells x seeds: `means` (one per cell) plus a luck that all cells of a seed share plus the cell's own, each of SD.

    normal; skewed (a shifted exponential); heavy-tailed (Student's t with 3 degrees of freedom); unequal (normal, the last
    cell's own spread five times that of the first).
    """
    shape = (len(means), seeds)
    if kind == "skewed":
        own = random.exponential(SD, shape) - SD
    elif kind == "heavy-tailed":
        own = random.standard_t(3, shape) * SD / np.sqrt(3)
    else:
        own = random.normal(0, SD, shape)
    if kind == "unequal":
        own *= np.linspace(1, 5, len(means))[:, None]
    return np.asarray(means[:, None] + random.normal(0, SD, (1, seeds)) + own)
