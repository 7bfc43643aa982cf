"""Does a search save epochs? Simulated over a table of real learning curves: `python -m tests.benchmarks.search_simulation`.

Every trial of a simulation is looked up in data/search_curves.csv (search_curves.py measured it), so that each way of
searching can be repeated over many seeds. As in a study every trial trains with a seed of its own, here one of the table's.
Samplers and pruners are those that `study.run` builds. Every way gets the epochs of one exhaustive run of the grid; reported
are the best validation accuracy seen, what the chosen configuration is worth (the mean over all its trainings), and the epochs
until a trial reaches the best of the exhaustive run with the same seed. Prints markdown; asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import cast

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from analysis.search.spec import read_search
from analysis.statistics import mean_interval
from study.search.suggestions import build_sampler
from study.spec.pruners import list_pruners
from tests.benchmarks.search_curves import BATCH_SIZES, LEARNING_RATES, NUM_EPOCHS, read_curves
from trainable.fingerprint import cpu_name

GRID = tuple((batch, rate) for batch in range(len(BATCH_SIZES)) for rate in range(len(LEARNING_RATES)))
BUDGET = len(GRID) * NUM_EPOCHS
_HALF_STEP = math.sqrt(LEARNING_RATES[1] / LEARNING_RATES[0])
_DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "batch_size": CategoricalDistribution(BATCH_SIZES),
    # Every learning rate of the table stands for those around it.
    "learning_rate": FloatDistribution(LEARNING_RATES[0] / _HALF_STEP, LEARNING_RATES[-1] * _HALF_STEP, log=True),
}


@dataclass(frozen=True)
class Run:
    """One simulated search: after each trial the epochs spent, the best value seen and the place of that trial."""

    epochs: npt.NDArray[np.int64]
    best: npt.NDArray[np.float64]
    chosen: tuple[tuple[int, int], ...]

    def epochs_to(self, value: float) -> float:
        """Epochs until a trial reached `value`, infinite if none did."""
        reached = np.flatnonzero(self.best >= value)
        return float(self.epochs[reached[0]]) if len(reached) else math.inf

    def at(self, epochs: int) -> int:
        """The last trial that had ended when so many epochs were spent."""
        return max(int(np.searchsorted(self.epochs, epochs, side="right")) - 1, 0)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.search_simulation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=100, help="simulations of each way (default: 100)")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = read_curves()
    started = time.monotonic()
    results = {name: [way(curves, seed) for seed in range(options.seeds)] for name, way in WAYS.items()}
    print(
        f"{options.seeds} simulations of each way, {len(GRID)} configurations, {len(curves)} trainings of each, {NUM_EPOCHS} "
        f"epochs; budget {BUDGET} epochs; {cpu_name()}, Python {platform.python_version()}, "
        f"optuna {metadata.version('optuna')}; {time.monotonic() - started:.0f} s"
    )
    print_results(results, curves)


def simulate_grid(curves: npt.NDArray[np.float64], seed: int, pruner: str = "none") -> Run:
    """Every configuration of the grid once, in random order, with or without pruning."""
    order = np.random.default_rng([1, seed]).permutation(len(GRID))
    suggestions = ({"batch_size": BATCH_SIZES[GRID[i][0]], "learning_rate": LEARNING_RATES[GRID[i][1]]} for i in order)
    study = optuna.create_study(direction="maximize", pruner=_build_pruner(pruner))

    def ask(number: int) -> optuna.Trial | None:
        parameters = next(suggestions, None)
        if parameters is None:
            return None
        study.enqueue_trial(parameters)
        return study.ask(_DISTRIBUTIONS)

    return _simulate(curves, seed, study, ask)


def simulate_search(curves: npt.NDArray[np.float64], seed: int, sampler: str, pruner: str = "none") -> Run:
    """A search until its budget is spent; the sampler is built anew for each trial, as in a study."""
    space = {"batch_size": {"choices": BATCH_SIZES}}  # the distributions are those below
    spec = read_search({"space": space, "sampler": sampler, "seed": seed})
    study = optuna.create_study(direction="maximize", pruner=_build_pruner(pruner))

    def ask(number: int) -> optuna.Trial:
        study.sampler = build_sampler(spec, number)
        return study.ask(_DISTRIBUTIONS)

    return _simulate(curves, seed, study, ask)


def _build_pruner(name: str) -> optuna.pruners.BasePruner:
    build = list_pruners()[name].build
    return cast(optuna.pruners.BasePruner, build(NUM_EPOCHS, 0)) if build else optuna.pruners.NopPruner()


def _simulate(
    curves: npt.NDArray[np.float64], seed: int, study: optuna.Study, ask: Callable[[int], optuna.Trial | None]
) -> Run:
    """Trials one after the other while the budget lasts; a trial that would outlast it is cut off and does not count."""
    luck = np.random.default_rng([2, seed])
    spent, best, place = 0, 0.0, (0, 0)
    epochs, values, chosen = [], [], []
    number = 0
    while spent < BUDGET and (trial := ask(number)) is not None:
        steps = math.log(trial.params["learning_rate"] / LEARNING_RATES[0]) / (2 * math.log(_HALF_STEP))
        here = (BATCH_SIZES.index(trial.params["batch_size"]), min(max(round(steps), 0), len(LEARNING_RATES) - 1))
        used, value = _train(study, trial, curves[(luck.integers(len(curves)), *here)], BUDGET - spent)
        spent, number = spent + used, number + 1
        if value is not None and value > best:
            best, place = value, here
        epochs.append(spent)
        values.append(best)
        chosen.append(place)
    return Run(np.array(epochs), np.array(values), tuple(chosen))


def _train(
    study: optuna.Study, trial: optuna.Trial, curve: npt.NDArray[np.float64], left: int
) -> tuple[int, float | None]:
    """Epochs used and the final value, None where the trial was pruned, diverged or cut off."""
    for epoch, value in enumerate(curve, 1):
        if not np.isfinite(value):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return epoch - 1, None
        trial.report(float(value), epoch)
        if epoch == len(curve):
            break
        if epoch == left:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return epoch, None
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return epoch, None
    study.tell(trial, float(curve[-1]))
    return len(curve), float(curve[-1])


WAYS: dict[str, Callable[[npt.NDArray[np.float64], int], Run]] = {
    "exhaustive grid": simulate_grid,
    "grid, ASHA": lambda curves, seed: simulate_grid(curves, seed, "asha"),
    "grid, median pruning": lambda curves, seed: simulate_grid(curves, seed, "median"),
    "random search": lambda curves, seed: simulate_search(curves, seed, "random"),
    "random, ASHA": lambda curves, seed: simulate_search(curves, seed, "random", "asha"),
    "TPE": lambda curves, seed: simulate_search(curves, seed, "tpe"),
    "TPE, ASHA": lambda curves, seed: simulate_search(curves, seed, "tpe", "asha"),
    "TPE, median pruning": lambda curves, seed: simulate_search(curves, seed, "tpe", "median"),
}


def print_results(results: dict[str, list[Run]], curves: npt.NDArray[np.float64]) -> None:
    """The tables: medians over simulations with the middle 90 %, and mean differences to the grid with their 95 %."""
    worth = np.nanmean(np.nan_to_num(curves[..., -1], nan=0.1), axis=0)
    grids = results["exhaustive grid"]
    print("| way | epochs spent | best seen, % | epochs to the grid's best | reached | reached in half the epochs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, runs in results.items():
        needed = [run.epochs_to(grid.best[-1]) for run, grid in zip(runs, grids, strict=True)]
        cells = [
            _spread([float(run.epochs[-1]) for run in runs], "{:.0f}"),
            _spread([100 * run.best[-1] for run in runs], "{:.1f}"),
            _spread(needed, "{:.0f}"),
            f"{np.mean(np.isfinite(needed)):.0%}",
            f"{np.mean(np.array(needed) <= BUDGET / 2):.0%}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nLess the exhaustive grid at all of its {BUDGET} epochs, in points, mean [95 %]:\n")
    print("| way | best seen, half the epochs | best seen, all | worth of the choice, half | worth, all |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, runs in results.items():
        seen, chosen = [], []
        for budget in (BUDGET // 2, BUDGET):
            at = [run.at(budget) for run in runs]
            pairs = list(zip(runs, grids, at, strict=True))
            seen.append(_mean([float(run.best[place] - grid.best[-1]) for run, grid, place in pairs]))
            chosen.append(
                _mean([float(worth[run.chosen[place]] - worth[grid.chosen[-1]]) for run, grid, place in pairs])
            )
        print(f"| {name} | {' | '.join([*seen, *chosen])} |")
    print(f"\nThe best configuration is worth {100 * worth.max():.1f} %, the mean of its {len(curves)} trainings.")


def _spread(values: list[float], shape: str) -> str:
    """Median and the middle 90 %; `never` where it is infinite."""
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf")
    texts = ["never" if math.isinf(value) else shape.format(value) for value in (middle, low, high)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _mean(differences: list[float]) -> str:
    mean, low, high = (100 * value for value in mean_interval(np.array(differences)))
    return f"{mean:+.1f}" if math.isclose(low, high) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
