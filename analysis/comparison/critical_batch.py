"""Critical batch size by branching: the batch size from which on a branch's loss is worse than the base's by a tolerance.

The base branch has the parent's own batch size B0, the others go on from the same state with other ones and see the same images. Per
seed s let d_s(B) = L_s(B) - L_s(B0), taken as linear in log B between the measured batch sizes. The critical batch size is the
smallest B > B0 with mean_s d_s(B) = tolerance. Its interval holds every B > B0 at which the 95 % t interval of mean_s d_s(B) holds the
tolerance: the test at that B is inverted, so one batch size is asked about at a time and nothing needs correcting. It is open
upwards where the largest batch size may not have departed. Branching is the idea of Merrill et al. 2025 (arXiv 2505.23971).

The noise scale's prediction is tr(S) / |G|^2 of the parents at the branch point: mean over seeds over mean over seeds, with Fieller's
interval (1954), which is open upwards where |G|^2 is not distinguishable from 0. Works on arrays; knows no study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.statistics import ALPHA, Array

_PER_OCTAVE = 64  # batch sizes looked at between one and its double


@dataclass(frozen=True)
class Located:
    """A batch size with its interval: NaN is not known, inf beyond what was measured."""

    value: float
    low: float
    high: float


NOWHERE = Located(math.nan, math.nan, math.nan)


def find_departure(batch_sizes: npt.ArrayLike, losses: Array, base: float, tolerance: float) -> Located:
    """Where the losses (batch sizes x seeds, in order of batch sizes) depart from those of the batch size `base`.

    NaN is a seed without that branch; a seed counts that has them all. One seed has no interval. inf: not up to the largest.
    """
    sizes = np.asarray(batch_sizes, dtype=np.float64)
    losses = losses[:, np.isfinite(losses).all(axis=0)]
    above = sizes >= base
    if not (sizes == base).any() or above.sum() < 2 or not losses.shape[1]:
        return NOWHERE
    octaves = np.log2(sizes[above])
    worse = (losses - losses[sizes == base])[above]
    at = np.linspace(octaves[0], octaves[-1], round((octaves[-1] - octaves[0]) * _PER_OCTAVE) + 1)
    curves = np.stack([np.interp(at, octaves, worse[:, seed]) for seed in range(worse.shape[1])], axis=1)
    mean, reach = _t_interval(curves)
    # Beside the base, where every difference is 0, no batch size has departed.
    return Located(
        _first(at, mean - tolerance),
        _first(at, mean + reach - tolerance),
        _last(at, mean - reach - tolerance) if worse.shape[1] > 1 else math.nan,
    )


def divide_means(numerators: Array, denominators: Array) -> Located:
    """The ratio of two means over the same seeds with Fieller's interval; a ratio that is not positive is not known."""
    both = np.isfinite(numerators) & np.isfinite(denominators)
    a, b = numerators[both], denominators[both]
    if not len(a) or a.mean() <= 0 or b.mean() <= 0:
        return NOWHERE
    ratio = float(a.mean() / b.mean())
    if len(a) == 1:
        return Located(ratio, math.nan, math.nan)
    factor = float(special.stdtrit(len(a) - 1, 1 - ALPHA / 2)) ** 2 / len(a)
    covariance = np.cov(a, b)
    # The r with (mean a - r mean b)^2 <= factor * var(a - r b): a quadratic in r.
    square = b.mean() ** 2 - factor * covariance[1, 1]
    middle = a.mean() * b.mean() - factor * covariance[0, 1]
    rest = a.mean() ** 2 - factor * covariance[0, 0]
    discriminant = middle**2 - square * rest
    if discriminant < 0:  # every ratio
        return Located(ratio, 0.0, math.inf)
    root = math.sqrt(discriminant)
    if square <= 0:  # all but those between the roots, of which the positive ones begin here
        return Located(ratio, max((middle - root) / square, (middle + root) / square, 0.0), math.inf)
    return Located(ratio, max((middle - root) / square, 0.0), (middle + root) / square)


def describe(found: Located, largest: float = math.inf) -> str:
    """A batch size with its interval as a person reads it; `largest` was measured."""
    if math.isnan(found.value):
        return "-"
    if math.isnan(found.low) or math.isnan(found.high):
        return _say(found.value, largest)
    if math.isinf(found.low):
        return _say(found.low, largest)
    return f"{_say(found.value, largest)} [{_say(found.low, largest)}, {_say(found.high, largest)}]"


def _say(size: float, largest: float) -> str:
    if math.isinf(size):
        return f"over {largest:,.0f}" if math.isfinite(largest) else "unbounded"
    return f"{size:,.0f}" if size >= 10 else f"{size:.2g}"


def judge(measured: Located, predicted: Located) -> str:
    """Whether the noise scale predicts the critical batch size: their intervals against each other."""
    if any(math.isnan(v) for one in (measured, predicted) for v in (one.value, one.low, one.high)):
        return "undetermined"
    if predicted.low > measured.high:
        return "too large"
    if predicted.high < measured.low:
        return "too small"
    wide = max(one.high / max(one.low, 1e-300) for one in (measured, predicted))
    return "consistent" if wide <= 16 else "undetermined"


def _t_interval(curves: Array) -> tuple[Array, Array]:
    """Mean over the last axis, and how far its 95 % interval reaches to both sides; NaN for one seed."""
    num = curves.shape[1]
    if num == 1:
        return curves[:, 0], np.full(len(curves), np.nan)
    error = curves.std(axis=1, ddof=1) / math.sqrt(num)
    return curves.mean(axis=1), error * special.stdtrit(num - 1, 1 - ALPHA / 2)


def _first(at: Array, excess: Array) -> float:
    """The batch size at which `excess` first reaches 0; inf where it does not, NaN where it is not known."""
    if np.isnan(excess).any():
        return math.nan
    found = np.flatnonzero(excess >= 0)
    return _cross(at, excess, int(found[0]) - 1) if len(found) else math.inf


def _last(at: Array, excess: Array) -> float:
    """The batch size from which on `excess` is above 0; inf where it is not at the largest."""
    return _cross(at, excess, int(np.flatnonzero(excess <= 0)[-1])) if excess[-1] > 0 else math.inf


def _cross(at: Array, excess: Array, before: int) -> float:
    """Where the line from this entry to the next one is 0."""
    low, high = excess[before], excess[before + 1]
    return float(2 ** (at[before] + (at[before + 1] - at[before]) * low / (low - high)))
