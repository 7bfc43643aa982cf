"""Asynchronous successive halving (Li et al. 2020), as a function of intermediate values alone.

Optuna's own pruner notes rungs in the trial before it answers, so a driver that is killed in between would let a trial go on
that an uninterrupted one prunes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from study.spec.pruners import Pruner

if TYPE_CHECKING:
    import optuna

REDUCTION_FACTOR = 3  # one trial of so many passes a rung


class AshaJudge:
    """At each rung (r, 3r, 9r, ... epochs) a trial goes on if it is among the best third of all that reached the rung so far.

    There is always a best one.
    """

    def __init__(self, epochs: int, warmup_epochs: int = 0) -> None:
        self.rungs = list_rungs(epochs, warmup_epochs)

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether the trial, whose last intermediate value is that of the epoch it has just finished, is to end."""
        step, more_is_better = trial.last_step, study.direction.name == "MAXIMIZE"
        if step not in self.rungs:
            return False
        reached = [
            t.intermediate_values[step] for t in study.get_trials(deepcopy=False) if step in t.intermediate_values
        ]
        reached.sort(reverse=more_is_better)
        last_kept = reached[max(1, len(reached) // REDUCTION_FACTOR) - 1]
        value = trial.intermediate_values[step]
        return value < last_kept if more_is_better else value > last_kept


def list_rungs(epochs: int, warmup_epochs: int = 0) -> list[int]:
    """The epochs after which ASHA decides: from a ninth of all epochs on, each three times the one before, up to a third.

    A later rung would save little and let hardly any trial of a short search complete. None lies within the longest warm-up
    or before the first epoch after it: a trial that is still warming up is behind by design, not because it is worse.
    """
    rungs = [max(1, epochs // REDUCTION_FACTOR**2, warmup_epochs + 1 if warmup_epochs else 1)]
    while rungs[-1] * REDUCTION_FACTOR**2 <= epochs:
        rungs.append(rungs[-1] * REDUCTION_FACTOR)
    return [rung for rung in rungs if rung * REDUCTION_FACTOR <= epochs]


def expect_epochs(epochs: int, warmup_epochs: int = 0) -> float:
    """Epochs of one trial on average, in a long search: a third of the trials passes each rung."""
    spent, share, before = 0.0, 1.0, 0
    for rung in [*list_rungs(epochs, warmup_epochs), epochs]:
        spent += share * (rung - before)
        share, before = share / REDUCTION_FACTOR, rung
    return spent


PRUNER = Pruner(
    name="asha",
    meaning="the best third goes on at a ninth and a third of the epochs",
    build=AshaJudge,
    expect_epochs=expect_epochs,
)
