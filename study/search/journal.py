"""A search in Optuna's words: its journal in the study folder, suggestions, intermediate values and what became of trials.

The journal (`search.journal`) and the trials' folders tell the same story twice; where they differ after a crash the folders
are right, because they hold what was trained. Every trial that was suggested carries our id as the user attribute
`trial_id`. RUNNING means a driver works on it now; what an ended driver left behind is WAITING, and goes on as the same
Optuna trial. Knows no Ray: searcher.py lets Tune drive it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.search.objectives import CompletedTrial, Objective, list_objectives
from analysis.search.spec import SearchSpec
from study.folder.ledger import load_state
from study.search.budget import SearchBudget
from study.search.journal_storage import open_search
from study.search.pruning import Pruning
from study.search.suggestions import build_distributions, build_sampler
from study.spec.search_spec import training_seed
from study.spec.study_spec import StudySpec
from trainable.config import TrialConfig, trial_id
from trainable.records.clock import utc_now
from trainable.records.trial_state import TrialState, write_state


@dataclass(frozen=True)
class Suggestion:
    """One searched trial to train, or to go on with."""

    number: int
    state: TrialState


class SearchJournal:
    """The search of one study folder. Open it while the study's lock is held."""

    def __init__(
        self, folder: StudyFolder, spec: StudySpec, data_fingerprint: str,
        change_trial: Callable[[str, Callable[[StudyFolder], None]], None] | None = None,
    ) -> None:  # fmt: skip
        """`change_trial(id, change)` lets `change` write into a trial of the folder, where the folder is a copy of another."""
        assert spec.search is not None
        self._folder, self._base, self._data = folder, spec.search_base, data_fingerprint
        self._change_trial = change_trial or (lambda trial_id, change: change(folder))
        self.spec: SearchSpec = spec.search
        self.objectives = [list_objectives()[name] for name in spec.search.objectives]
        self._study, self._storage = open_search(folder, spec, data_fingerprint)
        self._budget, self._pruning = SearchBudget(spec.search, self._study), Pruning(spec, self._study, self._storage)
        for cell, values in zip(spec.cells, spec.search.enqueued, strict=False):
            self._study.enqueue_trial(values, user_attrs={"cell": cell.label}, skip_if_exists=True)
        for trial in self.trials:
            self._check_trial(trial)
        for state in self.states().values():
            if state.role != "search":  # a checkpoint, from which a state may have been rebuilt, does not know it
                self._write(replace(state, role="search"))
        self._left: list[FrozenTrial] = self._take_over()

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial of the search that was ever suggested, in order."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if "trial_id" in trial.user_attrs]

    @property
    def unfinished(self) -> int:
        """Suggested trials that have not ended."""
        return sum(not trial.state.is_finished() for trial in self.trials)

    @property
    def over(self) -> bool:
        """True when the budget is spent and every suggested trial has ended."""
        return self.unfinished == 0 and self.spent() is not None

    @property
    def num_to_run(self) -> int:
        """Trials that are left to run, as far as a number of trials says."""
        new = 0 if self.spec.trials is None else max(0, self.spec.trials - len(self.trials))
        return self.unfinished + new

    def states(self) -> dict[int, TrialState]:
        """What is on disk of the suggested trials, by number."""
        found = {trial.number: load_state(self._folder, trial.user_attrs["trial_id"]) for trial in self.trials}
        return {number: state for number, state in found.items() if state is not None}

    def suggest(self) -> Suggestion | None:
        """The next trial to train: one that was left unfinished, else a new one; None where the budget is spent.

        A trial that is found finished on disk is told to the sampler, and the next one is suggested.
        """
        while True:
            if self._left:
                frozen = self._left.pop(0)
                self._storage.set_trial_state_values(frozen._trial_id, OptunaState.RUNNING)
                config = self._config(frozen)
            elif self.spent() is not None:
                return None
            else:
                config, frozen = self._ask()
            state = load_state(self._folder, frozen.user_attrs["trial_id"])
            if state is None:
                state = TrialState(config=config, data_fingerprint=self._data, role="search")
            if not self._replay(frozen.number, state):
                return Suggestion(frozen.number, state)

    def observe(self, number: int, epoch: int, values: Mapping[str, Any]) -> str | None:
        """Note what a trial reached after an epoch; a reason where it is to be pruned."""
        self._budget.note_time()
        self._pruning.note(number, epoch, values)
        return self._judge(number, epoch)

    def settle(self, number: int) -> None:
        """Tell Optuna how a trial ended, as its folder says; one that has not ended waits to go on."""
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return
        state = load_state(self._folder, frozen.user_attrs["trial_id"])
        if state is None or not (state.finished or state.status == "failed"):
            self._storage.set_trial_state_values(frozen._trial_id, OptunaState.WAITING)
            return
        for row in read_epochs(self._folder, state):
            self._pruning.note(number, row["epoch"], row)
        completed = state.status == "completed"
        values = measure_objectives(self._folder, state, self.objectives) if completed else None
        if state.reason:
            self._storage.set_trial_user_attr(frozen._trial_id, "reason", state.reason)
        if values is not None and all(math.isfinite(value) for value in values):
            self._study.tell(number, values)
        elif state.status == "pruned":
            self._study.tell(number, state=OptunaState.PRUNED)
        else:
            if values is not None:
                self._storage.set_trial_user_attr(frozen._trial_id, "reason", f"objective not finite: {values}")
            self._study.tell(number, state=OptunaState.FAIL)

    def close(self) -> None:
        """Leave nothing RUNNING: tell what has ended, let the rest wait."""
        self._budget.note_time(at_once=True)
        for trial in self.trials:
            if trial.state == OptunaState.RUNNING:
                self.settle(trial.number)

    def spent(self) -> str | None:
        """The budget that is spent, in words; None while there is some left. What earlier drivers spent counts."""
        return self._budget.spent(len(self.trials), lambda: self.states().values())

    def wall_time_s(self) -> float:
        """Time that drivers have searched, this one included."""
        return self._budget.wall_time_s

    def winners(self) -> list[tuple[int, TrialConfig]]:
        """The top_k trials of different configurations: of the Pareto front by the first objective, or the best by the only one."""
        best = self._study.best_trials if len(self.objectives) > 1 else self.trials
        suggested = [trial for trial in best if "trial_id" in trial.user_attrs]
        maximize = self.objectives[0].direction == "maximize"
        chosen = choose_winners(suggested, self.spec.top_k, maximize=maximize)
        return [(trial.number, self._config(trial)) for trial in chosen]

    def _check_trial(self, trial: FrozenTrial) -> None:
        """Refuse a trial of the journal that is none of this search. Errors: StudyFolderError."""
        try:
            known = trial.user_attrs["trial_id"] == trial_id(self._config(trial), self._data)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise StudyFolderError(
                f"{self._folder.search_journal}: its trial {trial.number} is none of this search; remove the journal, it is made "
                "again from the trials' folders"
            )

    def _ask(self) -> tuple[TrialConfig, FrozenTrial]:
        everything = self._study.get_trials(deepcopy=False)
        waiting = [trial.number for trial in everything if trial.state == OptunaState.WAITING]
        number = min(waiting, default=len(everything))
        self._study.sampler = build_sampler(self.spec, number)
        asked = self._study.ask(fixed_distributions=build_distributions(self.spec.space))
        assert asked.number == number
        config = self._config(self._frozen(number))
        asked.set_user_attr("trial_id", trial_id(config, self._data))
        return config, self._frozen(number)

    def _take_over(self) -> list[FrozenTrial]:
        """Let what an ended driver left RUNNING wait; returns the trials that were suggested and have not ended."""
        for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            self._storage.set_trial_state_values(trial._trial_id, OptunaState.WAITING)
        return [trial for trial in self.trials if trial.state == OptunaState.WAITING]

    def _replay(self, number: int, state: TrialState) -> bool:
        """Bring a RUNNING trial up to what is on disk; True where that is its end, so there is nothing to train."""
        if not (state.finished or state.status == "failed"):
            reason = self._feed(number, state)
            if reason is None:
                return False
            state = replace(state, status="pruned", reason=reason, ended_at=utc_now())
            self._write(state)
        self.settle(number)
        return True

    def _write(self, state: TrialState) -> None:
        self._change_trial(state.trial_id, lambda folder: write_state(folder.trial(state.trial_id), state))

    def _feed(self, number: int, state: TrialState) -> str | None:
        """Note the epochs on disk that the journal lacks, in order; a reason where one of them prunes the trial.

        Epochs before the newest one that the journal knows are not judged again: the trial went on after them, and others that
        have come since would be held against it.
        """
        newest = max(self._frozen(number).intermediate_values, default=0)
        for row in read_epochs(self._folder, state):
            self._pruning.note(number, row["epoch"], row)
            if row["epoch"] >= newest and (reason := self._judge(number, row["epoch"])):
                return reason
        return None

    def _judge(self, number: int, epoch: int) -> str | None:
        """Why the trial is to end after this epoch; None where it goes on, or ends anyway."""
        ends = epoch >= self._config(self._frozen(number)).epochs
        return None if ends else self._pruning.judge(number, epoch)

    def _config(self, frozen: FrozenTrial) -> TrialConfig:
        return TrialConfig.from_dict({**self._base, **frozen.params, "seed": training_seed(self.spec, frozen.number)})

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


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


def read_epochs(folder: StudyFolder, state: TrialState) -> list[dict[str, Any]]:
    """The rows of the epochs that the trial has completed, in order."""
    path = folder.trial(state.trial_id) / "epochs.parquet"
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [row for row in rows if row["epoch"] <= state.epochs_completed]


def measure_objectives(folder: StudyFolder, state: TrialState, objectives: Sequence[Objective]) -> list[float]:
    """The objectives of a completed trial; NaN where one was not measured. Errors: StudyFolderError where its model is missing."""
    trial = CompletedTrial(state.config, read_epochs(folder, state), folder)
    return [objective.measure(trial) for objective in objectives]
