"""What counts as a failure of a trial, why it failed, and when it has failed for the last time. Imports Ray."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.driver.hang_watch import HangWatch
from study.driver.trial_runner import read_trial_id
from study.folder.ledger import record_failure, record_node_loss
from study.folder.progress_file import ProgressFile

if TYPE_CHECKING:
    from study.storage.study_store import StudyStore

_MOST_LOSSES = 20  # a trial that ends node after node, say by their memory, must not go on for ever
_log = logging.getLogger(__name__)


class FailureRecorder(tune.Callback):
    """Notes every failed attempt of a trial, with its reason, in the trial's state, and says when it was the last one.

    Tune counts the loss of a node as a failure of the trials on it; here only the trial's own failures count, neither the loss of
    a node nor one that joined and cannot run trials. So Tune is told
    to try for ever, until this sets the limit of a trial that has had its chances; its next attempt then ends at once.
    """

    def __init__(
        self,
        store: StudyStore,
        hang_watch: HangWatch,
        max_failures: int,
        find_node_trouble: Callable[[Any], str | None],
        progress: ProgressFile,
    ) -> None:
        self._store = store
        self._find_node_trouble = find_node_trouble
        self._hang_watch = hang_watch
        self._max_failures = max_failures
        self._progress = progress
        self._failures: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._given_up: set[str] = set()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The attempt failed and Tune tries again."""
        if (
            self._hang_watch.reason(read_trial_id(trial)) is None
            and self._losses[read_trial_id(trial)] < _MOST_LOSSES
            and (trouble := self._trouble(trial)) is not None
        ):
            self._losses[read_trial_id(trial)] += 1
            note = f"{trouble}; the trial goes on from its newest checkpoint"
            self._write(trial, lambda folder: record_node_loss(folder, read_trial_id(trial), note))
            self._progress.note_lost_node(trouble)
            return
        self._failures[read_trial_id(trial)] += 1
        if self._failures[read_trial_id(trial)] > self._max_failures:
            trial.max_failures = 0
            self._given_up.add(read_trial_id(trial))
        self._record(trial)

    def _trouble(self, trial: Any) -> str | None:
        try:
            return self._find_node_trouble(trial)
        except Exception as error:  # noqa: BLE001 - Ray's own servers may be starting again
            _log.warning("whether the node of trial %s was lost cannot be told: %s", trial, error)
            return None

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune tries no more."""
        if read_trial_id(trial) not in self._given_up:
            self._given_up.add(read_trial_id(trial))
            self._record(trial)

    def _record(self, trial: Any) -> None:
        reason = self._hang_watch.reason(read_trial_id(trial)) or failure_reason(trial)
        final = read_trial_id(trial) in self._given_up
        self._write(trial, lambda folder: record_failure(folder, read_trial_id(trial), reason, final=final))
        self._progress.note_failure(reason, retried=not final)

    def _write(self, trial: Any, record: Callable[[StudyFolder], None]) -> None:
        try:
            self._store.change_trial(read_trial_id(trial), record)
        except (OSError, StudyFolderError) as error:
            _log.warning("the failure of trial %s could not be recorded: %s", trial, error)

    def __getstate__(self) -> dict[str, Any]:
        return {}


_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b.*")


def failure_reason(trial: Any) -> str:
    """One line: the error that ended the trial's last attempt, from Tune's error file (its last section)."""
    try:
        section = Path(trial.error_file).read_text(errors="replace").rpartition("Failure #")[2]
    except (OSError, TypeError):
        section = ""
    lines = [line.strip() for line in section.splitlines()[1:] if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or ["the worker ended without an error message"])[-1][:500]
