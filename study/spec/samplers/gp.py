"""Gaussian process with expected improvement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.spec.samplers import STARTUP_TRIALS, Sampler

if TYPE_CHECKING:
    import optuna

    from analysis.search.spec import SearchSpec


def _build(spec: SearchSpec, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)


SAMPLER = Sampler(
    name="gp",
    meaning="Gaussian process: where the objective's model expects most improvement; seconds for each of many trials",
    build=_build,
    packages=("scipy", "torch"),
)
