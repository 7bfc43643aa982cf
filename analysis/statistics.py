"""Is one cell different from another? Tests on differences that are paired by seed, and the verdict they allow.

The paired t test gives the verdict, in both directions: p_different is its two-sided p-value, p_equivalent that of two
one-sided t tests against the margin (TOST, Schuirmann 1987). Both are Holm-corrected over everything that is compared
together. The bootstrap interval is shown beside the t interval and decides nothing: below about ten seeds it is too
narrow. Works on arrays; knows no cells, no metrics and no files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Array = npt.NDArray[np.float64]
ALPHA = 0.05
POWER = 0.8
FEWEST_FOR_BOOTSTRAP = 5
MOST_SEEDS = 1000
VERDICTS = ("different", "equivalent", "undecided")


@dataclass(frozen=True)
class PairedTests:
    """One entry per comparison; p-values are raw, NaN where there is no test. Intervals cover 95 %, each by itself."""

    num_seeds: npt.NDArray[np.int64]
    mean: Array
    sd: Array
    low: Array
    high: Array
    effect_size: Array
    p_different: Array
    p_equivalent: Array


def run_paired_tests(differences: Array, margins: Array | float) -> PairedTests:
    """Paired t tests of `differences` (comparisons x seeds, NaN where a seed is missing) against 0 and +-`margins`.

    The effect size is the mean over the standard deviation of the differences with Hedges' correction for few seeds. A
    comparison whose differences do not vary at all (one seed, or equal to the last digit) has no test.
    """
    differences = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    num = np.isfinite(differences).sum(axis=1)
    safe = np.where(np.isfinite(differences), differences, 0.0)
    mean = np.where(num > 0, safe.sum(axis=1) / np.maximum(num, 1), np.nan)
    squares = np.where(np.isfinite(differences), (differences - mean[:, None]) ** 2, 0.0).sum(axis=1)
    free = np.maximum(num - 1, 1)
    sd = np.where(num > 1, np.sqrt(squares / free), np.nan)
    varies = sd > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    error = np.where(varies, sd / np.sqrt(np.maximum(num, 1)), np.nan)
    reach = special.stdtrit(free, 1 - ALPHA / 2) * error
    upper_tail = special.stdtr(free, -(np.asarray(margins) - np.abs(mean)) / error)
    correction = np.where(num > 2, 1 - 3 / (4 * free - 1), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = mean / sd * correction
    return PairedTests(
        num_seeds=num, mean=mean, sd=sd, low=mean - reach, high=mean + reach,
        effect_size=np.where(varies, effect, np.nan),
        p_different=2 * special.stdtr(free, -np.abs(mean) / error), p_equivalent=upper_tail,
    )  # fmt: skip


def adjust_holm(p_values: Array) -> Array:
    """Holm's step-down correction over all p-values that are numbers; NaN stays NaN and counts for nothing."""
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def decide(p_different: Array, p_equivalent: Array) -> npt.NDArray[np.str_]:
    """A verdict per comparison from corrected p-values.

    equivalent: smaller than the margin, even if it is not zero. different: not zero. Otherwise, and without a test,
    undecided, which is not a statement that there is no difference.
    """
    equivalent = np.nan_to_num(p_equivalent, nan=1.0) <= ALPHA
    different = np.nan_to_num(p_different, nan=1.0) <= ALPHA
    return np.where(equivalent, "equivalent", np.where(different, "different", "undecided"))


def explain(tests: PairedTests, verdicts: npt.NDArray[np.str_], p_different: Array) -> list[str]:
    """Why each verdict is what it is, where that needs saying."""
    reasons = []
    for number, verdict in enumerate(verdicts):
        if tests.num_seeds[number] == 0:
            reasons.append("no seed that both completed")
        elif tests.num_seeds[number] == 1:
            reasons.append("one seed: a difference cannot be told from the luck of the seed")
        elif not math.isfinite(tests.p_different[number]):
            reasons.append("the difference is the same for all seeds: no spread to test against")
        elif verdict == "equivalent" and p_different[number] <= ALPHA:
            reasons.append("not zero, but smaller than the margin")
        else:
            reasons.append("")
    return reasons


def count_more_seeds(tests: PairedTests, margins: Array, num_comparisons: int) -> Array:
    """Further seeds after which each comparison would probably (80 %) be settled, if mean and sd are as estimated now.

    The smaller number of those that would show a difference and those that would show equivalence, at the strictest level
    that Holm's correction can ask for. NaN where there is no sd to go by; MOST_SEEDS stands for that many or more. An
    estimate from few seeds is rough.
    """
    alpha = ALPHA / max(num_comparisons, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        for_difference = _smallest_sample(tests.sd / np.abs(tests.mean), 1 - alpha / 2, POWER)
        room = np.asarray(margins) - np.abs(tests.mean)
        for_equivalence = _smallest_sample(np.where(room > 0, tests.sd / room, np.inf), 1 - alpha, (1 + POWER) / 2)
    needed = np.fmin(for_difference, for_equivalence)
    more = np.where(needed < MOST_SEEDS, np.maximum(needed - tests.num_seeds, 1), MOST_SEEDS)
    return np.where(np.isfinite(tests.p_different), more, np.nan)


def bootstrap_interval(differences: Array) -> tuple[Array, Array]:
    """95 % bias-corrected bootstrap intervals of the mean difference, NaN below five seeds; the same at every call."""
    differences = np.atleast_2d(differences)
    low, high = np.full(len(differences), np.nan), np.full(len(differences), np.nan)
    present = np.isfinite(differences)
    for pattern in np.unique(present, axis=0):
        rows = np.flatnonzero((present == pattern).all(axis=1))
        values = differences[np.ix_(rows, np.flatnonzero(pattern))]
        varies = np.ptp(values, axis=1) > 0 if values.shape[1] else np.zeros(len(rows), dtype=bool)
        if values.shape[1] < FEWEST_FOR_BOOTSTRAP or not varies.any():
            continue
        result = stats.bootstrap(
            (values[varies],), np.mean, axis=-1, n_resamples=2000, batch=200, method="BCa", vectorized=True,
            confidence_level=1 - ALPHA, rng=np.random.default_rng(0),
        )  # fmt: skip
        low[rows[varies]], high[rows[varies]] = result.confidence_interval
    return low, high


def mean_interval(values: Array) -> tuple[float, float, float]:
    """Mean of one number per seed and its 95 % t interval; the ends are NaN for one seed, equal to it without spread."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    if len(values) == 1:
        return mean, math.nan, math.nan
    reach = float(special.stdtrit(len(values) - 1, 1 - ALPHA / 2) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - reach, mean + reach


def _smallest_sample(noise: Array, level: float, power: float) -> Array:
    """Smallest n >= 2 with n >= ((t_level + t_power) * noise)^2, n - 1 degrees of freedom; MOST_SEEDS if none smaller."""
    low, high = np.full(noise.shape, 2), np.full(noise.shape, MOST_SEEDS)
    while (low < high).any():
        middle = (low + high) // 2
        quantiles = special.stdtrit(middle - 1, level) + special.stdtrit(middle - 1, power)
        enough = middle >= (quantiles * noise) ** 2
        low, high = np.where(enough | (low >= high), low, middle + 1), np.where(enough, middle, high)
    return np.where(np.isfinite(noise), high, MOST_SEEDS).astype(np.float64)
