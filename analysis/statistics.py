"""Is one cell different from another? Intervals of differences that are paired by seed, and the verdict that they give.

One rule: the interval of a difference excludes 0 -> different; it lies within the margin -> equivalent; neither -> undecided.
The intervals of a family of comparisons are simultaneous (Bonferroni's t intervals: with probability 95 % all of them hold at
once), so that no verdict contradicts a shown interval, and both kinds of false verdict are made in at most 5 % of studies.
Works on arrays; knows no cells, no metrics and no files.

    Bonferroni and t     Miller, Simultaneous Statistical Inference, 1981
    equivalence          inclusion of the 1 - 2 alpha interval is the two one-sided tests of Schuirmann (1987); the 1 - alpha
                         interval is asked for here, which is stricter and is the one that is shown
    repeated looks       repeated confidence intervals, Jennison and Turnbull (1989); error spent as n^2, Kim and DeMets (1987)
    with the best        Hsu, Multiple Comparisons, 1996, section 4
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1000
_SIMULATED = 100_000
VERDICTS = ("different", "equivalent", "undecided")


@dataclass(frozen=True)
class Comparisons:
    """One entry per comparison. `low` and `high` hold for all at once; NaN, like p, where there is no spread to go by."""

    num_seeds: npt.NDArray[np.int64]
    mean: Array
    sd: Array
    low: Array
    high: Array
    p: Array  # two-sided, of the difference, corrected for the number of comparisons: at most 5 % where the interval excludes 0
    alpha: Array  # the error that each interval was given


def compare_paired(differences: Array, num_comparisons: int, spent: Array | float = 1.0) -> Comparisons:
    """The mean of each row of `differences` (comparisons x seeds, NaN where a seed is missing) and its interval.

    `num_comparisons` is the size of the family that the rows belong to; `spent` the share of the family's error that each row
    may spend at its present number of seeds (`spend`). A row whose differences do not vary (one seed, or equal to the last
    digit) has no interval.
    """
    differences = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    present = np.isfinite(differences)
    num = present.sum(axis=1)
    mean = np.where(num > 0, np.where(present, differences, 0.0).sum(axis=1) / np.maximum(num, 1), np.nan)
    squares = np.where(present, (differences - mean[:, None]) ** 2, 0.0).sum(axis=1)
    free = np.maximum(num - 1, 1)
    sd = np.where(num > 1, np.sqrt(squares / free), np.nan)
    varies = sd > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    error = np.where(varies, sd / np.sqrt(np.maximum(num, 1)), np.nan)
    share = np.broadcast_to(np.asarray(spent, dtype=np.float64), num.shape) / max(num_comparisons, 1)
    with np.errstate(divide="ignore"):
        reach = special.stdtrit(free, 1 - ALPHA * share / 2) * error
        p = np.minimum(2 * special.stdtr(free, -np.abs(mean) / error) / share, 1.0)
    return Comparisons(num, mean, sd, mean - reach, mean + reach, p, ALPHA * share)


def decide(found: Comparisons, margins: Array | float) -> npt.NDArray[np.str_]:
    """A verdict per comparison from its interval; undecided is not a statement that there is no difference.

    equivalent: smaller than the margin, even if it is not zero. different: not zero.
    """
    equivalent = (found.low > -np.asarray(margins)) & (found.high < np.asarray(margins))
    different = (found.low > 0) | (found.high < 0)
    return np.where(equivalent, "equivalent", np.where(different, "different", "undecided"))


def explain(found: Comparisons, verdicts: npt.NDArray[np.str_]) -> list[str]:
    """Why each verdict is what it is, where that needs saying."""
    reasons = []
    for num, low, high, verdict in zip(found.num_seeds, found.low, found.high, verdicts, strict=True):
        if num == 0:
            reasons.append("no seed that both completed")
        elif num == 1:
            reasons.append("one seed: a difference cannot be told from the luck of the seed")
        elif math.isnan(low):
            reasons.append("the difference is the same for all seeds: no spread to test against")
        elif verdict == "equivalent" and (low > 0 or high < 0):
            reasons.append("not zero, but smaller than the margin")
        else:
            reasons.append("")
    return reasons


def spend(num_seeds: npt.ArrayLike, first: int, most: int, num_comparisons: int = 1) -> Array:
    """The share of its error that a comparison may spend at `num_seeds` seeds, if one looks after first, first + 1 ... most seeds.

    It grows as the square of the number of seeds, and is scaled so that the intervals of all looks hold at once at the level of one
    of `num_comparisons`: looks at the same seeds resemble each other, so the shares add up to more than 1. 0 before the first look
    and after the last.
    """
    n = np.asarray(num_seeds, dtype=np.float64)
    share = _weigh(n, first, most) * _scale_of_looks(first, most, ALPHA / max(num_comparisons, 1))
    return np.where((n >= first) & (n <= most), share, 0.0)


def _weigh(num_seeds: Array, first: int, most: int) -> Array:
    """The part of the error of each look; 1 in all."""
    return np.asarray((num_seeds**2 - (num_seeds - 1) ** 2) / (most**2 - (first - 1) ** 2))


@functools.cache
def _scale_of_looks(first: int, most: int, level: float) -> float:
    """What the weights of looks are multiplied by: with normal differences the smallest p over weight of all looks falls below it in
    a share `level` of studies, found on simulated ones (t statistics do not depend on mean and spread there). Where these are too few
    to say, 1, which Bonferroni's inequality allows."""
    if level * _SIMULATED < 200 or first == most:
        return 1.0
    looks = np.arange(first, most + 1)
    drawn = np.random.default_rng(0).standard_normal((_SIMULATED, most))
    sums, squares = np.cumsum(drawn, axis=1)[:, first - 1 :], np.cumsum(drawn**2, axis=1)[:, first - 1 :]
    t = np.abs(sums) / np.sqrt(np.maximum(squares - sums**2 / looks, 1e-300) * looks / (looks - 1))
    smallest = (2 * special.stdtr(looks - 1, -t) / _weigh(looks.astype(np.float64), first, most)).min(axis=1)
    return float(max(np.quantile(smallest, level) / level, 1.0))


def count_more_seeds(found: Comparisons, margins: Array | float) -> Array:
    """Further seeds after which each comparison would probably (80 %) be settled, if mean and sd are as estimated now.

    The smaller number of those that would show a difference and those that would show equivalence, at the level of the
    family. NaN where there is no sd to go by; MOST_SEEDS stands for that many or more. An estimate from few seeds is rough.
    """
    level = 1 - found.alpha / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        for_difference = _smallest_sample(found.sd / np.abs(found.mean), level, POWER)
        room = np.asarray(margins) - np.abs(found.mean)
        for_equivalence = _smallest_sample(np.where(room > 0, found.sd / room, np.inf), level, (1 + POWER) / 2)
    needed = np.fmin(for_difference, for_equivalence)
    more = np.where(needed < MOST_SEEDS, np.maximum(needed - found.num_seeds, 1), MOST_SEEDS)
    return np.where(np.isfinite(found.low), more, np.nan)


@dataclass(frozen=True)
class EffectSizes:
    """Standardised: d is the mean over the standard deviation, with Hedges' correction; an interval as of the comparison."""

    d: Array
    low: Array
    high: Array

    @property
    def chance(self) -> tuple[Array, Array, Array]:
        """The probability that the first of the two is larger on a further seed, and its interval; 0.5 where both are alike.

        Of normally distributed differences it is the distribution function of d.
        """
        return special.ndtr(self.d), special.ndtr(self.low), special.ndtr(self.high)


def measure_effects(found: Comparisons) -> EffectSizes:
    """Effect sizes; their intervals invert the noncentral t distribution, and exclude 0 where that of the difference does."""
    free = np.maximum(found.num_seeds - 1, 1)
    root = np.sqrt(np.maximum(found.num_seeds, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        d = np.where(np.isfinite(found.low), found.mean / found.sd, np.nan)
        correction = np.where(found.num_seeds > 2, 1 - 3 / (4 * free - 1), np.nan)
        low, high = (
            special.nctdtrinc(free, 1 - level, d * root) / root for level in (found.alpha / 2, 1 - found.alpha / 2)
        )
    return EffectSizes(d * correction, low, high)


@dataclass(frozen=True)
class WithTheBest:
    """Per cell: its mean less the best of the others' [low, high, at once 95 %], and whether it may be the best."""

    difference: Array
    low: Array
    high: Array
    may_be_best: npt.NDArray[np.bool_]


def compare_with_best(values: Array, looks: tuple[int, int] | None = None) -> WithTheBest:
    """Multiple comparisons with the best (Hsu), on `values` (cells x seeds, NaN where missing) of which more is better.

    The set of cells that may be the best holds the best one in at least 95 % of studies. Differences are paired by seed. `looks` are
    the fewest and the most seeds at which one looks, where that is more than once.
    """
    count = len(values)
    difference, reach = np.full((count, count), np.nan), np.full((count, count), np.inf)
    for number in range(count):
        found = compare_paired(values[number] - values, 1)
        difference[number] = found.mean
        error = np.where(np.isfinite(found.low), found.sd / np.sqrt(np.maximum(found.num_seeds, 1)), np.inf)
        share = 1.0 if looks is None else spend(found.num_seeds, *looks, count - 1)
        with np.errstate(invalid="ignore"):
            quantiles = special.stdtrit(np.maximum(found.num_seeds - 1, 1), 1 - ALPHA * share / max(count - 1, 1))
            reach[number] = np.where(error > 0, quantiles * error, np.inf)
    np.fill_diagonal(difference, np.nan)
    known = np.isfinite(difference) & np.isfinite(reach)
    upper = np.where(known, difference + reach, np.inf)
    np.fill_diagonal(upper, np.inf)
    high = np.maximum(upper.min(axis=1), 0.0)
    may_be_best = high > 0
    low = np.zeros(count)
    for number in range(count):
        rivals = may_be_best & (np.arange(count) != number)
        if rivals.any():
            lower = np.where(known[number], difference[number] - reach[number], -np.inf)[rivals]
            low[number] = min(float(lower.min()), 0.0)
    with np.errstate(all="ignore"):
        nearest = np.nanmin(np.where(np.isnan(difference), np.inf, difference), axis=1)
    return WithTheBest(np.where(np.isfinite(nearest), nearest, np.nan), low, high, may_be_best)


def mean_interval(values: Array, num_intervals: int = 1) -> tuple[float, float, float]:
    """Mean of one number per seed and its 95 % t interval; the ends are NaN for one seed, equal to it without spread.

    `num_intervals`: of how many that are to hold at once this is one (Bonferroni).
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    if len(values) == 1:
        return mean, math.nan, math.nan
    reach = float(
        special.stdtrit(len(values) - 1, 1 - ALPHA / 2 / num_intervals) * values.std(ddof=1) / math.sqrt(len(values))
    )
    return mean, mean - reach, mean + reach


def _smallest_sample(noise: Array, level: Array, power: float) -> Array:
    """Smallest n >= 2 with n >= ((t_level + t_power) * noise)^2, n - 1 degrees of freedom; MOST_SEEDS if none smaller."""
    low, high = np.full(noise.shape, 2), np.full(noise.shape, MOST_SEEDS)
    while (low < high).any():
        middle = (low + high) // 2
        quantiles = special.stdtrit(middle - 1, level) + special.stdtrit(middle - 1, power)
        enough = middle >= (quantiles * noise) ** 2
        low, high = np.where(enough | (low >= high), low, middle + 1), np.where(enough, middle, high)
    return np.where(np.isfinite(noise), high, MOST_SEEDS).astype(np.float64)
