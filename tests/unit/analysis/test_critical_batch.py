"""The critical batch size by branching: against a quadratic whose losses are known in closed form, and from records to page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special

from analysis.comparison.branches import list_points
from analysis.comparison.critical_batch import NOWHERE, Located, describe, divide_means, find_departure, judge
from analysis.drawing.declaration import Subject
from analysis.drawing.style import NothingToDraw
from analysis.figures.critical_batch_size import FIGURE
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from analysis.tables import build_tables
from tests.support.branches import write_branched
from tests.support.studies import write_synthetic_study

# SGD on h/2 |w|^2 in 64 dimensions from w0, the gradient of a batch of B with variance sigma^2 / B in each of them, for the same
# number of images: every w_i after T = images / B steps is normal with mean a^T w0, a = 1 - rate h, and the variance below.
BASE, IMAGES, H, START, SIGMA, DIMENSIONS = 8, 4096, 1.0, 1.0, 1.0, 64
RATES = {"linear": 0.02, "sqrt": 0.004}  # of the base
SIZES = 2.0 ** np.arange(3, 11.5, 0.5)


def moments(size: float, scaling: str) -> tuple[float, float]:
    """Mean and variance of each weight after the images."""
    rate = RATES[scaling] * {"linear": size / BASE, "sqrt": math.sqrt(size / BASE)}[scaling]
    contraction, steps = 1 - rate * H, IMAGES / size
    kept = abs(contraction) ** (2 * steps)
    return math.sqrt(kept) * START, rate**2 * SIGMA**2 / size * (1 - kept) / (1 - contraction**2)


def expected_loss(size: float, scaling: str) -> float:
    mean, variance = moments(size, scaling)
    return H / 2 * DIMENSIONS * (mean**2 + variance)


def draw_losses(scaling: str, seeds: int, random: np.random.Generator) -> np.ndarray:
    return np.array([
        [H / 2 * np.square(random.normal(mean, math.sqrt(variance), DIMENSIONS)).sum() for _ in range(seeds)]
        for mean, variance in (moments(size, scaling) for size in SIZES)
    ])  # fmt: skip


@pytest.mark.parametrize(("scaling", "tolerance"), [("linear", 0.05), ("sqrt", 0.5)])
def test_the_critical_batch_size_of_a_quadratic(scaling: str, tolerance: float) -> None:
    """Linear scaling departs where steps become unstable, 2 / h; the square root where there are too few of them."""

    def excess(octave: float) -> float:
        return expected_loss(2**octave, scaling) - expected_loss(BASE, scaling) - tolerance

    truth = 2 ** optimize.brentq(excess, math.log2(BASE), 9.5)  # steps of linear scaling are unstable from 800 on
    exact = find_departure(SIZES, np.array([[expected_loss(s, scaling)] * 2 for s in SIZES]), BASE, tolerance)
    assert exact.value == pytest.approx(truth, rel=0.06)  # lines between batch sizes half an octave apart
    random = np.random.default_rng(0)
    found = [find_departure(SIZES, draw_losses(scaling, 4, random), BASE, tolerance) for _ in range(300)]
    assert np.median([one.value for one in found]) == pytest.approx(exact.value, rel=0.03)
    assert np.mean([one.low <= exact.value <= one.high for one in found]) >= 0.92
    assert all(one.low <= one.value <= one.high for one in found)


def test_what_departs_nowhere_or_is_not_known() -> None:
    flat = np.array([[1.0, 1.1], [1.001, 1.1], [1.0, 1.101]])
    assert find_departure([8, 16, 32], flat, 8, 0.02) == Located(math.inf, math.inf, math.inf)
    noisy = flat + np.array([[0, 0], [0, 0], [0.3, -0.3]])
    open_upwards = find_departure([8, 16, 32], noisy, 8, 0.02)
    assert (open_upwards.value, open_upwards.high) == (math.inf, math.inf)
    assert 16 <= open_upwards.low < 17
    one = find_departure([8, 16, 32], np.array([[1.0], [1.0], [1.04]]), 8, 0.02)
    assert one.value == pytest.approx(16 * math.sqrt(2), rel=0.01)
    assert (math.isnan(one.low), math.isnan(one.high)) == (True, True)
    incomplete = np.array([[1.0, 1.0], [1.0, math.nan], [1.04, 2.0]])
    assert find_departure([8, 16, 32], incomplete, 8, 0.02).value == one.value
    assert find_departure([16, 32], flat[1:], 8, 0.02) is NOWHERE
    below = find_departure([4, 8, 16], np.array([[9.0, 9.1], [1.0, 1.1], [1.0, 1.101]]), 8, 0.02)
    assert math.isinf(below.value)  # smaller batches than the base's are not asked about


def test_the_interval_of_a_ratio_is_fiellers() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(30, 3, 5), random.normal(0.3, 0.03, 5)
    found = divide_means(a, b)
    assert found.value == a.mean() / b.mean()
    for end in (found.low, found.high):  # where the t test of mean(a - r b) = 0 is just significant
        rest = a - end * b
        assert abs(rest.mean()) / (rest.std(ddof=1) / math.sqrt(5)) == pytest.approx(special.stdtrit(4, 0.975))
    covered = [
        (lambda one: one.low <= 100 <= one.high)(divide_means(random.normal(30, 9, 4), random.normal(0.3, 0.06, 4)))
        for _ in range(400)
    ]
    assert np.mean(covered) >= 0.92


def test_a_ratio_over_what_may_be_zero_is_open_upwards() -> None:
    found = divide_means(np.array([10.0, 11.0, 12.0]), np.array([0.3, -0.1, 0.1]))
    assert found.value == pytest.approx(110.0)
    assert 0 < found.low < 110
    assert math.isinf(found.high)
    assert divide_means(np.array([10.0, 11.0]), np.array([-0.3, 0.1])) is NOWHERE
    assert divide_means(np.array([]), np.array([])) is NOWHERE
    assert math.isnan(divide_means(np.array([10.0]), np.array([0.1])).low)


@pytest.mark.parametrize(
    ("measured", "predicted", "verdict"),
    [
        (Located(100, 60, 150), Located(120, 90, 200), "consistent"),
        (Located(100, 60, 150), Located(400, 200, 900), "too large"),
        (Located(100, 60, 150), Located(400, 200, math.inf), "too large"),
        (Located(100, 60, 150), Located(20, 10, 40), "too small"),
        (Located(math.inf, 300, math.inf), Located(20, 10, 40), "too small"),
        (Located(100, 60, 150), Located(120, 10, 900), "undetermined"),
        (Located(100, 60, math.inf), Located(120, 90, 200), "undetermined"),
        (Located(100, math.nan, math.nan), Located(120, 90, 200), "undetermined"),
        (Located(100, 60, 150), NOWHERE, "undetermined"),
    ],
)
def test_verdicts(measured: Located, predicted: Located, verdict: str) -> None:
    assert judge(measured, predicted) == verdict


def test_words() -> None:
    assert describe(Located(112.4, 60.2, 150.0), 512) == "112 [60, 150]"
    assert describe(Located(112.4, 60.2, math.inf), 512) == "112 [60, over 512]"
    assert describe(Located(math.inf, 300.0, math.inf), 512) == "over 512 [300, over 512]"
    assert describe(Located(math.inf, math.inf, math.inf), 512) == "over 512"
    assert describe(Located(90.0, 40.0, math.inf)) == "90 [40, unbounded]"
    assert describe(NOWHERE) == "-"


def test_points_are_found_and_branches_are_in_no_other_table(tmp_path: Path) -> None:
    study = write_branched(tmp_path)
    assert len(study.trials) == 3
    assert set(study.epochs["trial_id"]) == set(study.trials["trial_id"])
    (point,) = list_points(study)
    assert (point.label, point.epoch, point.scaling, point.images, point.base) == ("the parent", 2, "linear", 1024, 32)
    assert (point.batch_sizes, point.seeds) == ((32, 64, 128, 256), (0, 1, 2))
    assert point.losses[0] == pytest.approx([1.0, 1.01, 1.02])
    assert point.critical.value == pytest.approx(64 * math.sqrt(2), rel=0.01)  # halfway from 0 to 0.04
    assert 64 < point.critical.low < point.critical.value < point.critical.high < 128
    own = study.epochs[study.epochs["epoch"] == 2]
    assert point.predicted.value == pytest.approx(
        own["gradient_covariance_trace"].mean() / own["gradient_l2_squared_unbiased"].mean()
    )


def test_tables_and_figure_follow(tmp_path: Path) -> None:
    study = write_branched(tmp_path)
    tables = build_tables(study)
    row = tables["critical_batch_size"].frame.iloc[0]
    assert row["critical_said"].startswith("9")
    assert row["verdict"] == "too large"
    shown = tables["branches"].frame
    assert shown["difference"].tolist() == pytest.approx([0, 0, 0.04, 1.0], abs=1e-9)
    figure = FIGURE.draw_on_paper(FIGURE.build(study, Subject()), Subject())
    (panel,) = [axes for axes in figure.axes if axes.get_lines()]
    line = panel.get_lines()[0]
    assert line.get_xdata() == pytest.approx([32, 64, 128, 256])
    assert line.get_ydata() == pytest.approx([0, 0, 0.04, 1.0], abs=1e-9)


def test_a_diverged_branch_has_the_loss_of_guessing_and_an_unfinished_one_none(tmp_path: Path) -> None:
    statuses = {(256, 0): "diverged", (128, 2): "pending"}
    (point,) = list_points(write_branched(tmp_path, statuses))
    assert point.losses[3, 0] == pytest.approx(math.log(10))
    assert math.isnan(point.losses[2, 2])


def test_a_study_without_branches_has_none_of_it(tmp_path: Path) -> None:
    study = load_study(write_synthetic_study(tmp_path / "a", epochs=2, layers=False))
    assert not {"critical_batch_size", "branches"} & set(build_tables(study))
    assert list(FIGURE.subjects(study)) == []
    begun = write_synthetic_study(tmp_path / "b", epochs=2, layers=False, branch={"epochs": [1]})
    with pytest.raises(NothingToDraw, match="no branch has ended"):
        FIGURE.build(load_study(StudyFolder(begun.path)), Subject())
    assert build_tables(begun, ["critical_batch_size"])["critical_batch_size"].frame.empty
