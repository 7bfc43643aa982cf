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
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from study.ledger import register_trials
from study.trial_runner import describe_trial, request_pruning

if TYPE_CHECKING:
    from analysis.study_folder import StudyFolder
    from study.progress import Progress
    from study.search_journal import SearchJournal, Suggestion

_log = logging.getLogger(__name__)


class JournalSearcher(Searcher):
    """Suggests what the journal suggests, one call per free place; `stopping` says that no more are wanted."""

    def __init__(
        self, journal: SearchJournal, folder: StudyFolder, progress: Progress, stopping: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._journal, self._folder, self._progress, self._stopping = journal, folder, progress, stopping
        self._suggested: dict[str, Suggestion] = {}  # by Tune's own ids of trials
        self._ended: list[int] = []

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, as the driver describes trials to Tune.

        What has ended is told to Optuna first, and only here: Tune asks its searchers before the callbacks that write a
        failure into the trial's state.
        """
        self._settle_ended()
        suggestion = None if self._stopping() else self._journal.suggest()
        if suggestion is None:
            return Searcher.FINISHED
        register_trials(self._folder, [suggestion.state])
        self._progress.add(suggestion.state)
        self._suggested[trial_id] = suggestion
        return {"trial": describe_trial(suggestion.state)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch was reported; the trial waits for this to return."""
        if "train_loss" not in result:
            return
        suggestion = self._suggested[trial_id]
        reason = self._journal.observe(suggestion.number, result["epoch"], result)
        if reason is not None:
            request_pruning(self._folder.trial(suggestion.state.trial_id), reason)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial ended; its folder will say how."""
        self._ended.append(self._suggested[trial_id].number)

    def _settle_ended(self) -> None:
        while self._ended:
            self._journal.settle(self._ended.pop(0))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journal is on disk already."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
