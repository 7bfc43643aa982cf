"""Which trials of a search win, and are trained again to be tested."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState


def choose_winners(trials: Sequence[FrozenTrial], top_k: int, *, maximize: bool) -> list[FrozenTrial]:
    """The `top_k` best trials of different configurations by the first objective; trials without a value are left out.

    Pruned trials follow those that completed, the ones that got furthest first: a short search lets few of them complete.
    """
    sign = -1 if maximize else 1
    scored = [trial for trial in trials if trial.values and trial.state.is_finished()]
    scored.sort(key=lambda t: (t.state != OptunaState.COMPLETE, -_epochs_reached(t), sign * t.values[0], t.number))
    found: list[FrozenTrial] = []
    for trial in scored:
        if len(found) < top_k and all(trial.params != other.params for other in found):
            found.append(trial)
    return found


def _epochs_reached(trial: FrozenTrial) -> int:
    """How far a pruned trial got; all that completed are alike, whatever their number of epochs."""
    return 0 if trial.state == OptunaState.COMPLETE else trial.last_step or 0
