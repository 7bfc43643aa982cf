"""The tests of the analysis against scipy's own, and their error rates on populations of known truth."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from analysis import statistics

Array = npt.NDArray[np.float64]


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_agrees_with_scipy_paired_t_test(random: np.random.Generator) -> None:
    first, second = random.normal(0.93, 0.01, (20, 6)), random.normal(0.92, 0.01, (20, 6))
    tests = statistics.run_paired_tests(first - second, 0.02)
    for number in range(20):
        expected = stats.ttest_rel(first[number], second[number])
        interval = expected.confidence_interval(0.95)
        assert tests.p_different[number] == pytest.approx(expected.pvalue)
        assert (tests.low[number], tests.high[number]) == pytest.approx((interval.low, interval.high))
        lower = stats.ttest_1samp(first[number] - second[number], -0.02, alternative="greater").pvalue
        upper = stats.ttest_1samp(first[number] - second[number], 0.02, alternative="less").pvalue
        assert tests.p_equivalent[number] == pytest.approx(max(lower, upper))


def test_seeds_that_are_missing_are_left_out(random: np.random.Generator) -> None:
    differences = random.normal(0.01, 0.01, (1, 6))
    gaps = np.insert(differences, [0, 3], np.nan, axis=1)
    complete, with_gaps = statistics.run_paired_tests(differences, 0.02), statistics.run_paired_tests(gaps, 0.02)
    assert with_gaps.num_seeds[0] == 6
    assert with_gaps.p_different[0] == pytest.approx(complete.p_different[0])


def test_effect_size_is_hedges_corrected() -> None:
    tests = statistics.run_paired_tests(np.array([[1.0, 2.0, 3.0, 4.0]]), math.nan)
    assert tests.effect_size[0] == pytest.approx(2.5 / np.std([1, 2, 3, 4], ddof=1) * (1 - 3 / (4 * 3 - 1)))


@pytest.mark.parametrize("differences", [[0.3], [0.01, 0.01, 0.01], [math.nan, math.nan]])
def test_no_spread_is_undecided_and_says_why(differences: list[float]) -> None:
    tests = statistics.run_paired_tests(np.array([differences]), 0.005)
    verdicts = statistics.decide(tests.p_different, tests.p_equivalent)
    assert list(verdicts) == ["undecided"]
    assert statistics.explain(tests, verdicts, tests.p_different)[0] != ""
    assert math.isnan(statistics.count_more_seeds(tests, np.array([0.005]), 1)[0])


def test_holm_against_its_definition(random: np.random.Generator) -> None:
    p_values = random.uniform(0, 0.2, 12)
    p_values[[2, 7]] = np.nan
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    expected, largest = {}, 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        expected[index] = largest
    adjusted = statistics.adjust_holm(p_values)
    assert {i: adjusted[i] for i in expected} == pytest.approx(expected)
    assert np.isnan(adjusted[[2, 7]]).all()


def test_a_real_difference_below_the_margin_is_equivalent() -> None:
    differences = np.random.default_rng(0).normal(0.002, 0.0005, (1, 10))
    tests = statistics.run_paired_tests(differences, 0.005)
    verdicts = statistics.decide(tests.p_different, tests.p_equivalent)
    assert list(verdicts) == ["equivalent"]
    assert "smaller than the margin" in statistics.explain(tests, verdicts, tests.p_different)[0]


def test_mean_interval_against_scipy(random: np.random.Generator) -> None:
    values = random.normal(0.9, 0.01, 5)
    expected = stats.t.interval(0.95, 4, loc=values.mean(), scale=stats.sem(values))
    assert statistics.mean_interval(values) == pytest.approx((values.mean(), *expected))
    mean, low, high = statistics.mean_interval(np.array([0.5]))
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_bootstrap_interval_needs_five_seeds_and_covers(random: np.random.Generator) -> None:
    differences = random.normal(0.0, 1.0, (300, 20))
    differences[0, :16] = np.nan
    low, high = statistics.bootstrap_interval(differences)
    assert math.isnan(low[0])
    covered = ((low[1:] <= 0) & (high[1:] >= 0)).mean()
    assert 0.88 <= covered <= 0.99  # somewhat narrow at 20 seeds: 93 % of the time is usual


STUDIES, CELLS, METRICS = 1000, 3, 4
PAIRS = [(0, 1), (0, 2), (1, 2)]
# Three standard errors of a rate of 5 % over a thousand studies.
ALLOWED = statistics.ALPHA + 3 * math.sqrt(statistics.ALPHA * (1 - statistics.ALPHA) / STUDIES)


def _verdicts(means: Array, seeds: int, margin: float, number: int) -> npt.NDArray[np.str_]:
    """A simulated study: cells x metrics of known means, correlated by seed and between metrics -> its verdicts."""
    random = np.random.default_rng([number, seeds])
    shared = random.normal(0, 0.002, (1, 1, seeds))
    own = random.normal(0, 0.002, (CELLS, METRICS, seeds)) + random.normal(0, 0.002, (CELLS, 1, seeds))
    values = means[:, :, None] + shared + own
    differences = np.concatenate([values[a] - values[b] for a, b in PAIRS])
    tests = statistics.run_paired_tests(differences, margin)
    return statistics.decide(statistics.adjust_holm(tests.p_different), statistics.adjust_holm(tests.p_equivalent))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_false_different_in_at_most_five_percent_of_studies(seeds: int) -> None:
    means = np.full((CELLS, METRICS), 0.93)
    false = sum("different" in _verdicts(means, seeds, 1e-9, number) for number in range(STUDIES))
    assert false / STUDIES <= ALLOWED


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 30])
def test_false_equivalent_in_at_most_five_percent_of_studies(seeds: int) -> None:
    """Every pair differs by exactly the margin, or twice it: the hardest case in which equivalent is false."""
    margin = 0.004
    means = np.repeat([[0.930], [0.934], [0.938]], METRICS, axis=1)
    false = sum("equivalent" in _verdicts(means, seeds, margin, number) for number in range(STUDIES))
    assert false / STUDIES <= ALLOWED


def test_enough_seeds_find_what_is_there() -> None:
    """The error rates above would be met by never deciding; this would not."""
    means = np.array([[0.93] * METRICS, [0.93] * METRICS, [0.95] * METRICS])
    found = [_verdicts(means, 20, 0.006, number) for number in range(100)]
    different = np.mean([verdicts[METRICS:] == "different" for verdicts in found])
    equivalent = np.mean([verdicts[:METRICS] == "equivalent" for verdicts in found])
    assert different > 0.95
    assert equivalent > 0.7


@pytest.mark.parametrize(("mean", "margin"), [(0.004, 0.001), (0.0, 0.005)])
def test_further_seeds_settle_it_about_as_often_as_said(mean: float, margin: float) -> None:
    """With the true mean and spread as estimate, the number of seeds it names decides four studies of five."""
    sd, now = 0.005, 3
    pattern = np.array([-1.0, 0.0, 1.0])
    tests = statistics.run_paired_tests((mean + sd * pattern)[None, :], margin)
    more = statistics.count_more_seeds(tests, np.array([margin]), 1)[0]
    random = np.random.default_rng(3)
    decided = statistics.run_paired_tests(random.normal(mean, sd, (4000, now + int(more))), margin)
    rate = (statistics.decide(decided.p_different, decided.p_equivalent) != "undecided").mean()
    assert 0.75 <= rate <= 0.92


def test_further_seeds_grow_with_noise_and_end_at_the_cap() -> None:
    noise = np.array([0.001, 0.01, 0.1, 10.0])
    differences = 0.01 + noise[:, None] * np.array([-1.0, 0.0, 1.0])
    more = statistics.count_more_seeds(statistics.run_paired_tests(differences, math.nan), np.full(4, math.nan), 1)
    assert (np.diff(more) >= 0).all()
    assert more[0] == 1
    assert more[-1] == statistics.MOST_SEEDS
