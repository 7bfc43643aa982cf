"""Independent draws: the reference that other samplers have to beat, and what importances are measured best on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.spec.samplers import Sampler

if TYPE_CHECKING:
    import optuna

    from analysis.search.spec import SearchSpec


def _build(spec: SearchSpec, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


SAMPLER = Sampler(name="random", meaning="independent draws, whatever the trials before were like", build=_build)
