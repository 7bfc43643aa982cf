"""What a search may spend and what it has spent; what earlier drivers of the same search spent counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import optuna

from analysis.search.spec import SearchSpec
from trainable.records.trial_state import TrialState

NOTE_INTERVAL_S = 5.0
_WALL_TIME = "wall_time_s"


class SearchBudget:
    """The budgets of a search, and the time that its drivers have searched, which is kept in the journal."""

    def __init__(self, spec: SearchSpec, study: optuna.Study) -> None:
        self._spec, self._study = spec, study
        self._opened_at = self._noted_at = time.monotonic()
        spent = study.user_attrs.get(_WALL_TIME, 0.0)
        self._spent_before_s = spent if isinstance(spent, float) and math.isfinite(spent) else 0.0

    @property
    def wall_time_s(self) -> float:
        """Time that drivers have searched, this one included."""
        return self._spent_before_s + time.monotonic() - self._opened_at

    def note_time(self, *, at_once: bool = False) -> None:
        """Keep the time for the next driver, if the last note is old enough."""
        if at_once or time.monotonic() - self._noted_at >= NOTE_INTERVAL_S:
            self._study.set_user_attr(_WALL_TIME, self.wall_time_s)
            self._noted_at = time.monotonic()

    def spent(self, num_trials: int, read_states: Callable[[], Iterable[TrialState]]) -> str | None:
        """The budget that is spent, in words; None while there is some left."""
        spec = self._spec
        if spec.trials is not None and num_trials >= spec.trials:
            return f"{spec.trials} trials"
        if spec.wall_time_h is not None and self.wall_time_s >= 3600 * spec.wall_time_h:
            return f"{spec.wall_time_h:g} h"
        if spec.gpu_hours is not None and count_gpu_hours(read_states()) >= spec.gpu_hours:
            return f"{spec.gpu_hours:g} GPU hours"
        return None


def count_gpu_hours(states: Iterable[TrialState]) -> float:
    """Time of trials times their share of a GPU."""
    return sum(state.wall_time_s * (state.gpu_share or 0.0) for state in states) / 3600
