"""A search's next suggestion in Optuna's words: the sampler of a trial and the distributions of the searched fields."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.search.spec import Choices, Range, SearchSpec, Space, is_whole
from study.spec.samplers import list_samplers


def build_sampler(spec: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """The search's sampler for the trial of this number."""
    seed = int(np.random.SeedSequence([spec.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return list_samplers()[spec.sampler].build(spec, seed)


def build_distributions(space: Space) -> dict[str, BaseDistribution]:
    """The distribution of every searched field."""
    return {name: _distribution(name, domain) for name, domain in space.items()}


def _distribution(name: str, domain: Choices | Range) -> BaseDistribution:
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.choices)
    if is_whole(name):
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
