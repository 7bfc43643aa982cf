"""Tree-structured Parzen estimator (Bergstra et al. 2011), over all searched fields together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.spec.samplers import STARTUP_TRIALS, Sampler

if TYPE_CHECKING:
    import optuna

    from analysis.search.spec import SearchSpec


def _build(spec: SearchSpec, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True)


SAMPLER = Sampler(
    name="tpe", meaning="tree-structured Parzen estimator: near what was good, far from what was bad", build=_build
)
