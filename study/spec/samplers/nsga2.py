"""NSGA-II (Deb et al. 2002), made for several objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.spec.samplers import STARTUP_TRIALS, Sampler

if TYPE_CHECKING:
    import optuna

    from analysis.search.spec import SearchSpec


def _build(spec: SearchSpec, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=STARTUP_TRIALS)


SAMPLER = Sampler(
    name="nsga2",
    meaning="genetic algorithm that spreads trials along the Pareto front, in generations of ten",
    build=_build,
)
