"""The simulated searches of the benchmarks: what they look up, spend and count."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from tests.benchmarks.search_curves import BATCH_SIZES, LEARNING_RATES, NUM_EPOCHS, read_curves
from tests.benchmarks.search_simulation import BUDGET, Run, simulate_grid, simulate_search


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def made_curves() -> np.ndarray:
    """Every configuration has a final value of its own and rises to it in a straight line."""
    shape = (1, len(BATCH_SIZES), len(LEARNING_RATES))
    final = np.arange(np.prod(shape), dtype=float).reshape(shape) / 100 + 0.1
    return final[..., None] * np.linspace(1 / NUM_EPOCHS, 1, NUM_EPOCHS)


def test_the_measured_table_is_whole() -> None:
    curves = read_curves()
    assert curves.shape == (3, len(BATCH_SIZES), len(LEARNING_RATES), NUM_EPOCHS)
    assert ((curves >= 0) & (curves <= 1)).all()


def test_an_exhaustive_grid_sees_everything_once() -> None:
    curves = made_curves()
    run = simulate_grid(curves, 0)
    assert run.epochs.tolist() == [NUM_EPOCHS * n for n in range(1, len(run.epochs) + 1)]
    assert run.epochs[-1] == BUDGET
    assert run.best[-1] == pytest.approx(curves[..., -1].max())
    assert run.chosen[-1] == (len(BATCH_SIZES) - 1, len(LEARNING_RATES) - 1)


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_where_early_values_tell_all_pruning_loses_nothing(pruner: str) -> None:
    """The order of these curves is the same after every epoch, so the best one is never pruned."""
    for seed in range(3):
        plain, pruned = (simulate_grid(made_curves(), seed, how) for how in ("none", pruner))
        assert pruned.best[-1] == plain.best[-1]
        assert pruned.epochs[-1] < 0.7 * plain.epochs[-1]


def test_where_early_values_lie_the_best_is_lost() -> None:
    """The best configurations look worst until the last epoch: a simulation that hid that would be of no use."""
    curves = made_curves()
    curves[..., :-1] = curves[..., :-1].max() - curves[..., :-1]
    plain, pruned = simulate_grid(curves, 0), simulate_grid(curves, 0, "asha")
    assert pruned.best[-1] < plain.best[-1]


@pytest.mark.parametrize(("sampler", "pruner"), [("random", "none"), ("random", "asha"), ("tpe", "median")])
def test_a_search_keeps_to_its_budget_and_repeats_itself(sampler: str, pruner: str) -> None:
    run, again = (simulate_search(made_curves(), 3, sampler, pruner) for _ in range(2))
    assert run.epochs[-1] == BUDGET
    assert (np.diff(run.epochs) >= 1).all()
    assert (np.diff(run.best) >= 0).all()
    assert run.epochs.tolist() == again.epochs.tolist()
    assert run.chosen == again.chosen


def test_epochs_to_a_value_and_places_by_epochs() -> None:
    run = Run(np.array([9, 12, 21]), np.array([0.3, 0.3, 0.5]), ((0, 0), (0, 0), (1, 1)))
    assert run.epochs_to(0.3) == 9
    assert run.epochs_to(0.4) == 21
    assert math.isinf(run.epochs_to(0.6))
    assert [run.at(epochs) for epochs in (9, 11, 12, 20, 21, 400)] == [0, 0, 1, 1, 2, 2]
