"""The comparisons against scipy's own tests, and their error rates on populations of known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from analysis import statistics
from tests.support.simulated_seeds import KINDS, draw_seeds

Array = npt.NDArray[np.float64]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("family", [1, 6])
def test_agrees_with_scipy_paired_t_test(random: np.random.Generator, family: int) -> None:
    first, second = random.normal(0.93, 0.01, (20, 6)), random.normal(0.92, 0.01, (20, 6))
    found = statistics.compare_paired(first - second, family)
    for number in range(20):
        expected = stats.ttest_rel(first[number], second[number])
        interval = expected.confidence_interval(1 - 0.05 / family)
        assert found.p[number] == pytest.approx(min(1, expected.pvalue * family))
        assert (found.low[number], found.high[number]) == pytest.approx((interval.low, interval.high))
        assert (found.p[number] < 0.05) == (found.low[number] > 0 or found.high[number] < 0)


def test_equivalence_is_that_of_two_one_sided_tests_at_half_the_level(random: np.random.Generator) -> None:
    differences, margin = random.normal(0.001, 0.004, (200, 8)), 0.005
    verdicts = statistics.decide(statistics.compare_paired(differences, 1), margin)
    for row, verdict in zip(differences, verdicts, strict=True):
        lower = stats.ttest_1samp(row, -margin, alternative="greater").pvalue
        upper = stats.ttest_1samp(row, margin, alternative="less").pvalue
        assert (verdict == "equivalent") == (max(lower, upper) < 0.025)
    assert {"equivalent", "undecided"} <= set(verdicts)


def test_seeds_that_are_missing_are_left_out(random: np.random.Generator) -> None:
    differences = random.normal(0.01, 0.01, (1, 6))
    gaps = np.insert(differences, [0, 3], np.nan, axis=1)
    complete, with_gaps = statistics.compare_paired(differences, 1), statistics.compare_paired(gaps, 1)
    assert with_gaps.num_seeds[0] == 6
    assert (with_gaps.low[0], with_gaps.p[0]) == pytest.approx((complete.low[0], complete.p[0]))


def test_effect_size_is_hedges_corrected_and_its_interval_inverts_the_noncentral_t() -> None:
    found = statistics.compare_paired(np.array([[1.0, 2.0, 3.0, 4.0]]), 1)
    effect = statistics.measure_effects(found)
    d = 2.5 / np.std([1, 2, 3, 4], ddof=1)
    assert effect.d[0] == pytest.approx(d * (1 - 3 / (4 * 3 - 1)))
    assert stats.nct.sf(2 * d, 3, 2 * effect.low[0]) == pytest.approx(0.025, rel=1e-3)
    assert stats.nct.cdf(2 * d, 3, 2 * effect.high[0]) == pytest.approx(0.025, rel=1e-3)


def test_interval_of_the_effect_size_excludes_zero_where_that_of_the_difference_does(
    random: np.random.Generator,
) -> None:
    found = statistics.compare_paired(random.normal(0.01, 0.01, (500, 4)), 3)
    effect = statistics.measure_effects(found)
    assert ((found.low > 0) == (effect.low > 0)).all()
    middle, low, high = effect.chance
    assert ((low <= middle) & (middle <= high)).all()
    assert ((low > 0.5) == (found.low > 0)).all()


@pytest.mark.parametrize("differences", [[0.3], [0.01, 0.01, 0.01], [math.nan, math.nan]])
def test_no_spread_is_undecided_and_says_why(differences: list[float]) -> None:
    found = statistics.compare_paired(np.array([differences]), 1)
    verdicts = statistics.decide(found, 0.005)
    assert list(verdicts) == ["undecided"]
    assert statistics.explain(found, verdicts)[0] != ""
    assert math.isnan(statistics.count_more_seeds(found, 0.005)[0])
    assert np.isnan(statistics.measure_effects(found).low[0])


def test_a_real_difference_below_the_margin_is_equivalent() -> None:
    found = statistics.compare_paired(np.random.default_rng(0).normal(0.002, 0.0005, (1, 10)), 1)
    verdicts = statistics.decide(found, 0.005)
    assert list(verdicts) == ["equivalent"]
    assert "smaller than the margin" in statistics.explain(found, verdicts)[0]


def test_mean_interval_against_scipy(random: np.random.Generator) -> None:
    values = random.normal(0.9, 0.01, 5)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert statistics.mean_interval(values) == pytest.approx((values.mean(), *expected))
    mean, low, high = statistics.mean_interval(np.array([0.5]))
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


STUDIES = 1000
# Three standard errors of a rate of 5 % over a thousand studies.
ALLOWED = statistics.ALPHA + 3 * math.sqrt(statistics.ALPHA * (1 - statistics.ALPHA) / STUDIES)
EQUAL = np.full(3, 0.93)


def _compare(values: Array) -> statistics.Comparisons:
    pairs = list(itertools.combinations(range(len(values)), 2))
    return statistics.compare_paired(np.array([values[a] - values[b] for a, b in pairs]), len(pairs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [3, 10])
def test_false_different_in_at_most_five_percent_of_studies(kind: str, seeds: int) -> None:
    random = np.random.default_rng([seeds, KINDS.index(kind)])
    false = sum(
        "different" in statistics.decide(_compare(draw_seeds(kind, EQUAL, seeds, random)), 1e-9) for _ in range(STUDIES)
    )
    assert false / STUDIES <= ALLOWED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [3, 10, 30])
def test_false_equivalent_in_at_most_five_percent_of_studies(kind: str, seeds: int) -> None:
    """Every pair differs by exactly the margin, or twice it: the hardest case in which equivalent is false."""
    random, margin = np.random.default_rng([seeds, KINDS.index(kind)]), 0.004
    means = np.array([0.930, 0.934, 0.938])
    false = sum(
        "equivalent" in statistics.decide(_compare(draw_seeds(kind, means, seeds, random)), margin)
        for _ in range(STUDIES)
    )
    assert false / STUDIES <= ALLOWED


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_cell_is_among_those_that_may_be(kind: str) -> None:
    """And the interval of every cell holds its distance to the best other one, in 95 % of studies at once."""
    random = np.random.default_rng(KINDS.index(kind))
    means = np.array([0.934, 0.933, 0.930, 0.930, 0.92])
    truth = means - np.array([np.delete(means, n).max() for n in range(len(means))])
    lost = wrong = 0
    for _ in range(STUDIES):
        found = statistics.compare_with_best(draw_seeds(kind, means, 5, random))
        lost += not found.may_be_best[0]
        wrong += not ((found.low <= truth + 1e-12) & (truth - 1e-12 <= found.high)).all()
    assert lost / STUDIES <= ALLOWED
    assert wrong / STUDIES <= ALLOWED


def test_the_best_cell_stays_among_those_that_may_be_at_every_look() -> None:
    random, means = np.random.default_rng(3), np.array([0.934, 0.9335, 0.930])
    lost = 0
    for _ in range(STUDIES // 2):
        values = draw_seeds("normal", means, 12, random)
        lost += any(not statistics.compare_with_best(values[:, :n], (3, 12)).may_be_best[0] for n in range(3, 13))
    assert lost / (STUDIES // 2) <= ALLOWED
    drawn = draw_seeds("normal", means, 12, random)
    once, often = statistics.compare_with_best(drawn), statistics.compare_with_best(drawn, (3, 12))
    assert (often.low <= once.low).all()
    assert (often.high >= once.high).all()


def test_enough_seeds_find_what_is_there(random: np.random.Generator) -> None:
    """The error rates above would be met by never deciding; this would not."""
    means = np.array([0.93, 0.93, 0.95])
    found = [statistics.decide(_compare(draw_seeds("normal", means, 20, random)), 0.006) for _ in range(100)]
    assert np.mean([verdicts[1:] == "different" for verdicts in found]) > 0.95
    assert np.mean([verdicts[0] == "equivalent" for verdicts in found]) > 0.7
    best = [statistics.compare_with_best(draw_seeds("normal", means, 10, random)).may_be_best for _ in range(100)]
    assert np.mean([list(may) == [False, False, True] for may in best]) > 0.95


@pytest.mark.parametrize(("mean", "margin"), [(0.004, 0.001), (0.0, 0.005)])
def test_further_seeds_settle_it_about_as_often_as_said(mean: float, margin: float) -> None:
    """With the true mean and spread as estimate, the number of seeds it names decides four studies of five."""
    sd, now = 0.005, 3
    pattern = np.array([-1.0, 0.0, 1.0])
    more = statistics.count_more_seeds(statistics.compare_paired((mean + sd * pattern)[None, :], 1), margin)[0]
    random = np.random.default_rng(3)
    decided = statistics.compare_paired(random.normal(mean, sd, (4000, now + int(more))), 1)
    rate = (statistics.decide(decided, margin) != "undecided").mean()
    assert 0.75 <= rate <= 0.92


def test_further_seeds_grow_with_noise_and_end_at_the_cap() -> None:
    noise = np.array([0.001, 0.01, 0.1, 10.0])
    differences = 0.01 + noise[:, None] * np.array([-1.0, 0.0, 1.0])
    more = statistics.count_more_seeds(statistics.compare_paired(differences, 1), math.nan)
    assert (np.diff(more) >= 0).all()
    assert more[0] == 1
    assert more[-1] == statistics.MOST_SEEDS


@pytest.mark.parametrize(("first", "most"), [(2, 2), (3, 12), (5, 40)])
def test_all_looks_together_spend_the_error_once(first: int, most: int) -> None:
    """The shares add up to 1 with a single look, and to more with several, which resemble each other."""
    shares = statistics.spend(np.arange(most + 5), first, most)
    assert 1 <= shares.sum() < most
    assert shares.max() <= 1
    assert (shares.sum() == pytest.approx(1)) == (first == most)
    assert statistics.spend(np.arange(most + 5), first, most, 10**6).sum() == pytest.approx(1)
    assert (shares[first : most + 1] > 0).all()
    assert shares[:first].sum() == shares[most + 1 :].sum() == 0


@pytest.mark.parametrize("truth", ["alike", "at the margin"])
def test_looking_after_every_seed_keeps_the_error_rate(truth: str) -> None:
    """False verdicts of studies that stop as soon as they are settled; without the spending they would be far more."""
    random, first, most, margin = np.random.default_rng(11), 3, 15, 0.004
    mean, false_verdict = (0.0, "different") if truth == "alike" else (margin, "equivalent")
    differences = random.normal(mean, 0.003, (STUDIES, most))
    false, naive = np.zeros(STUDIES, dtype=bool), np.zeros(STUDIES, dtype=bool)
    for seeds in range(first, most + 1):
        looks = statistics.compare_paired(differences[:, :seeds], 1, statistics.spend(seeds, first, most))
        false |= statistics.decide(looks, margin if truth != "alike" else 1e-9) == false_verdict
        naive |= (
            statistics.decide(
                statistics.compare_paired(differences[:, :seeds], 1), margin if truth != "alike" else 1e-9
            )
            == false_verdict
        )
    assert false.mean() <= ALLOWED
    assert naive.mean() > false.mean()
