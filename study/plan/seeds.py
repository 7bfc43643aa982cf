"""How many seeds `--until-decided` will take: known only once the spread is, so said for spreads and differences that may be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analysis import statistics
from analysis.results.formats import with_points
from study.spec.study_spec import StudySpec

_STUDIES = 500


def simulate_seeds(first: int, most: int, num_pairs: int, difference: float, margin: float) -> np.ndarray:
    """Seeds until a pair is settled, one entry per simulated study, `most` where it is not; all in units of the standard deviation
    of the differences between seeds, which are drawn from a normal distribution."""
    drawn = np.random.default_rng(0).normal(difference, 1, (_STUDIES, most))
    seeds = np.full(_STUDIES, most)
    for number in range(most, first - 1, -1):
        found = statistics.compare_paired(
            drawn[:, :number], num_pairs, statistics.spend(number, first, most, num_pairs)
        )
        settled = statistics.decide(found, margin) != "undecided"
        seeds[settled] = number
    return seeds


def describe_seeds(spec: StudySpec, count: int) -> Iterator[str]:
    """Lines of a plan of `count` cells: the fewest and the most trials, and what is to be expected."""
    assert spec.stopping is not None
    first, most = spec.stopping["first"], spec.stopping["most"]
    yield f"seeds     {first} to {most} per cell, until each is different from the best or equivalent to it: {count * first} to {count * most} trials"
    margin = 100 * spec.equivalence_margin
    for spread in (0.5, 1.0):
        means = [
            simulate_seeds(first, most, count * (count - 1) // 2, d / spread, 1 / spread).mean() for d in (0, 1, 3)
        ]
        yield (
            f"          expected for a pair, if seeds spread its difference by {with_points(f'{spread * margin:g}')} (sd): {means[0]:.0f} where the cells "
            f"are alike, {means[1]:.0f} where they differ by {with_points(f'{margin:g}')}, {means[2]:.0f} by {3 * margin:g}"
        )
