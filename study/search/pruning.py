"""The first objective by epoch, kept in the journal, and which trials are behind by it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage

from analysis.search.objectives import list_objectives
from study.spec.pruners import list_pruners
from study.spec.search_space import max_epochs, max_warmup_epochs
from study.spec.study_spec import StudySpec


class Pruning:
    """Notes what trials reach after an epoch, and says which ones are to end then."""

    def __init__(self, spec: StudySpec, study: optuna.Study, storage: BaseStorage) -> None:
        assert spec.search is not None
        self._study, self._storage = study, storage
        self._pruner = list_pruners()[spec.search.pruner]
        self._objective, self._is_alone = list_objectives()[spec.search.objectives[0]], len(spec.search.objectives) == 1
        space, base = spec.search.space, spec.search_base
        build = self._pruner.build
        self._judge = build and build(max_epochs(space, base), max_warmup_epochs(space, base))

    def note(self, number: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Keep the objective of an epoch, if it has one and Optuna takes it: not with two objectives."""
        trial, value = self._study.get_trials(deepcopy=False)[number], self._objective.after_epoch(values)
        if value is not None and self._is_alone and epoch not in trial.intermediate_values:
            self._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)

    def judge(self, number: int, epoch: int) -> str | None:
        """Why the trial is to end after this epoch; None where it goes on. As it was then: later epochs are not looked at."""
        trial = self._study.get_trials(deepcopy=False)[number]
        if self._judge is None or epoch not in trial.intermediate_values:
            return None
        then = copy.copy(trial)
        then.intermediate_values = {e: value for e, value in trial.intermediate_values.items() if e <= epoch}
        if not self._judge.prune(self._study, then):
            return None
        value = trial.intermediate_values[epoch]
        return f"pruned after epoch {epoch} by {self._pruner.name}: {self._objective.name} {value:.4f} is behind"
