"""What a search may spend and what it has spent; what earlier drivers of the same search spent counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import optuna

from trainable.trial_state import TrialState

NOTE_INTERVAL_S = 5.0
_WALL_TIME = "wall_time_s"


class SearchClock:
    """Time that drivers have searched, this one included; kept in the journal, at most every few seconds."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._opened_at = self._noted_at = time.monotonic()
        spent = study.user_attrs.get(_WALL_TIME, 0.0)
        self._spent_before_s = spent if isinstance(spent, float) and math.isfinite(spent) else 0.0

    def read_s(self) -> float:
        """Seconds so far."""
        return self._spent_before_s + time.monotonic() - self._opened_at

    def note(self, *, at_once: bool = False) -> None:
        """Keep the time for the next driver, if the last note is old enough."""
        if at_once or time.monotonic() - self._noted_at >= NOTE_INTERVAL_S:
            self._study.set_user_attr(_WALL_TIME, self.read_s())
            self._noted_at = time.monotonic()


def count_gpu_hours(states: Iterable[TrialState]) -> float:
    """Time of trials times their share of a GPU."""
    return sum(state.wall_time_s * (state.gpu_share or 0.0) for state in states) / 3600
