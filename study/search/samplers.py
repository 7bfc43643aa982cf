"""Optuna's samplers and pruners for a SearchSpec, none of which keeps anything between two trials.

A sampler is built anew for every trial, seeded by the search's seed and the trial's number, and a pruner looks at nothing but
intermediate values. So a suggestion follows from the spec and from what is in the journal: a search that was killed and
went on suggests what an uninterrupted one does. Knows no Ray and no study folder.
"""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from study.spec.search_space import Choices, Range, Space
from study.spec.search_spec import REDUCTION_FACTOR, SearchSpec, list_rungs

_STARTUP_TRIALS = 10  # drawn at random before a model of the objective is trusted


class AshaPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving (Li et al. 2020), as a function of intermediate values alone.

    At each rung (r, 3r, 9r, ... epochs) a trial goes on if it is among the best third of all that reached the rung so far,
    and there is always a best one. Optuna's own pruner notes rungs in the trial before it answers, so a driver that is
    killed in between would let a trial go on that an uninterrupted one prunes.
    """

    def __init__(self, epochs: int, warmup_epochs: int = 0) -> None:
        self.rungs = list_rungs(epochs, warmup_epochs)

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the trial, whose last intermediate value is that of the epoch it has just finished, is to end."""
        step = trial.last_step
        if step not in self.rungs:
            return False
        reached = [
            t.intermediate_values[step] for t in study.get_trials(deepcopy=False) if step in t.intermediate_values
        ]
        reached.sort(reverse=study.direction == optuna.study.StudyDirection.MAXIMIZE)
        last_kept = reached[max(1, len(reached) // REDUCTION_FACTOR) - 1]
        value = trial.intermediate_values[step]
        return value < last_kept if study.direction == optuna.study.StudyDirection.MAXIMIZE else value > last_kept


def build_pruner(spec: SearchSpec, epochs: int, warmup_epochs: int = 0) -> optuna.pruners.BasePruner:
    """The spec's pruner for trials of so many epochs, at most so many of them warm-up, in which none is judged."""
    if spec.pruner == "asha":
        return AshaPruner(epochs, warmup_epochs)
    if spec.pruner == "median":
        patience = max(epochs // REDUCTION_FACTOR**2 - 1, warmup_epochs + 1 if warmup_epochs else 0)
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=patience)
    return optuna.pruners.NopPruner()


def build_sampler(spec: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """The spec's sampler for the trial of this number."""
    seed = int(np.random.SeedSequence([spec.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if spec.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if spec.sampler == "gp":
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=_STARTUP_TRIALS, warn_independent_sampling=False
            )
        if spec.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=seed,
                n_startup_trials=_STARTUP_TRIALS,
                consider_pruned_trials=True,
                warn_independent_sampling=False,
            )
        if spec.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=_STARTUP_TRIALS)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=True
        )


def build_distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    return {name: _distribution(domain) for name, domain in space.items()}


def _distribution(domain: Choices | Range) -> BaseDistribution:
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
