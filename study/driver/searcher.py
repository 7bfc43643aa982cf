"""A search as Ray Tune sees it: a Searcher over the journal, which is the one that knows.

Ray's own OptunaSearch is not used: it tells Optuna that a trial ended by a scheduler is complete, leaves one with a NaN running
for ever, knows no reason for a failure, and a new Tuner repeats its suggestions or asks for new ones, where this project
goes on with the trials that were interrupted. Nor are Tune's schedulers: their rungs are lost with the driver. Here a trial is
pruned by its own process, which saves its last epoch and its status first, so actors are reused and nothing is lost.

Imports Ray: import this module only after the driver has set Ray's environment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from study.driver.progress import Progress
from study.driver.trial_runner import describe_trial, request_pruning
from study.folder.ledger import register_trials
from study.search.journal import SearchJournal, Suggestion
from study.storage.study_store import StudyStore

_log = logging.getLogger(__name__)


class JournalSearcher(Searcher):
    """Suggests what the journal suggests, one call per free slot; `stopping` says that no more are wanted."""

    def __init__(
        self, journal: SearchJournal, store: StudyStore, progress: Progress, stopping: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._journal, self._store, self._progress, self._stopping = journal, store, progress, stopping
        self._suggested: dict[str, Suggestion] = {}  # by Tune's own ids of trials
        self._ended: list[Suggestion] = []
        self._unstarted: Suggestion | None = None
        self._unsent: dict[int, str] = {}  # why a trial is to be pruned, where its storage did not take it yet

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, as the driver describes trials to Tune.

        What has ended is told to Optuna first, and only here: Tune asks its searchers before the callbacks that write a
        failure into the trial's state. Storage that does not answer for a moment makes it wait: Tune asks again.
        """
        try:
            self._settle_ended()
            suggestion = self._unstarted or (None if self._stopping() else self._journal.suggest())
            if suggestion is None:
                return Searcher.FINISHED
            self._unstarted = suggestion
            register_trials(self._store.folder, [suggestion.state])
            # At a URL the journal is there before the trial is: whatever is trained, the next driver knows who suggested it.
            self._store.put_file(self._store.folder.search_journal.name)
            self._store.put_trial(suggestion.state.trial_id)
        except OSError as error:
            _log.warning("the search waits for its storage: %s", error)
            return None
        self._unstarted = None
        self._progress.add(suggestion.state)
        self._suggested[trial_id] = suggestion
        return {"trial": describe_trial(suggestion.state)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch was reported; the trial waits for this to return."""
        if "train_loss" not in result:
            return
        suggestion = self._suggested[trial_id]
        number, epoch = suggestion.number, result["epoch"]
        reason = self._journal.observe(number, epoch, result) or self._unsent.pop(number, None)
        if reason is not None:
            try:
                request_pruning(self._store.trial_storage, suggestion.state.trial_id, epoch, reason)
            except OSError as error:
                self._unsent[number] = reason  # asked again after the next epoch
                _log.warning("trial %s cannot be pruned yet: %s", suggestion.state.trial_id, error)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial ended; its folder will say how."""
        self._ended.append(self._suggested[trial_id])

    def _settle_ended(self) -> None:
        while self._ended:
            self._store.fetch_trial(self._ended[0].state.trial_id)
            self._journal.settle(self._ended.pop(0).number)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal is on disk already."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
