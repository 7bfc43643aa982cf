"""Optuna's median rule: a trial ends whose best value so far is behind the median of the others at the same epoch."""

from __future__ import annotations

from study.spec.pruners import Judge, Pruner


def _build(epochs: int, warmup_epochs: int) -> Judge:
    """From a ninth of the epochs on, or the first epoch after the warm-up, once five trials have completed."""
    from optuna.pruners import MedianPruner

    patience = max(epochs // 9 - 1, warmup_epochs + 1 if warmup_epochs else 0)
    return MedianPruner(n_startup_trials=5, n_warmup_steps=patience)


PRUNER = Pruner(name="median", meaning="a trial behind the median of the others at the same epoch ends", build=_build)
