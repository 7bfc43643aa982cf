"""Why an attempt of a trial ended, what of that counts as a failure of the trial, and when it has failed for the last time.

An attempt ends with an error, in silence, because the node under it was lost, or because the study's storage was away, and these
last two are none of the trial's own: a preempted or crashed machine breaks the connection first, that its node is dead Ray declares
seconds later; storage that is away or read-only is waited for. Imports Ray.
"""

from __future__ import annotations

import errno
import logging
import pickle
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private import state

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.cluster.node_probe import UnfitNodeError
from study.cluster.nodes import list_nodes
from study.driver.trial_runner import read_trial_id
from study.folder.ledger import record_failure, record_node_loss
from study.folder.progress_file import ProgressFile
from study.storage.study_store import StudyStore
from trainable.errors import first_line
from trainable.user_code import UserCodeError

_BUSY_S = 1.0
_LOOK_INTERVAL_S = 0.2  # Tune's loop turns once per report, and there may be thousands of trials
_MOST_LOSSES = 20  # a trial that ends node after node, say by their memory, must not go on for ever
_NO_NODE = ray.NodeID.nil().hex()  # of an actor that never ran
_DECIDED_WITHIN_S = 60.0  # by default Ray misses a node after 15 s
_STILL_ALIVE_AFTER_S = 3.0  # a machine that shuts down ends its workers a moment before its raylet
_PAUSE_S = 0.2
_STORAGE_PAUSE_S = 2.0
_STORAGE_BACK_WITHIN_S = 3600.0
# Of storage that is away or was made read-only, not of a full disk, which somebody has to see to.
_STORAGE_ERRNOS = (
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EREMOTEIO,
)
_STORAGE_ERROR = re.compile(rf"\bStorageError: |\[Errno ({'|'.join(map(str, _STORAGE_ERRNOS))})\]")
_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b.*")
_USER_CODE = f"{UserCodeError.__module__}.{UserCodeError.__name__}: "
_log = logging.getLogger(__name__)


class NotSaved:
    """Of what Tune saves of an experiment every now and then: nothing of this."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class HangWatch(NotSaved, tune.Callback):
    """Ends the worker of a trial that has not reported for `timeout_s`; Tune sees it die, which counts as a failure.

    The driver does this, not a thread of the worker, so that a process that is frozen as a whole is ended too.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._stepped_at = self._looked_at = time.monotonic()
        self._heard_at: dict[str, float] = {}
        self._ended: dict[str, str] = {}

    def reason(self, trial_id: str) -> str | None:
        """Why the trial's last attempt was ended here; None where it was not."""
        return self._ended.get(trial_id)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The time of an attempt runs from its start."""
        self._ended.pop(read_trial_id(trial), None)
        self._heard_at[read_trial_id(trial)] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Any report is a sign of life."""
        self._heard_at[read_trial_id(trial)] = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called in every round of Tune's loop. While the driver itself was busy, say with gathering, no trial was silent."""
        if self._timeout_s is None:
            return
        now = time.monotonic()
        if (busy_s := now - self._stepped_at) > _BUSY_S:
            self._heard_at = {trial: heard_at + busy_s for trial, heard_at in self._heard_at.items()}
        self._stepped_at = now
        if now - self._looked_at < _LOOK_INTERVAL_S:
            return
        self._looked_at = now
        for trial in trials:
            heard_at = self._heard_at.get(read_trial_id(trial))
            if trial.status == "RUNNING" and heard_at is not None and now - heard_at > self._timeout_s:
                self._end(trial)

    def _end(self, trial: Any) -> None:
        del self._heard_at[read_trial_id(trial)]
        if (worker := trial.temporary_state.ray_actor) is not None:
            self._ended[read_trial_id(trial)] = (
                f"no report within {self._timeout_s:g} s (--trial-timeout): its worker was ended"
            )
            ray.kill(worker)


class FailureRecorder(NotSaved, tune.Callback):
    """Notes every failed attempt of a trial, with its reason, in the trial's state, and says when it was the last one.

    Tune counts the loss of a node as a failure of the trials on it; here only the trial's own failures count, neither the loss of
    a node nor one that joined and cannot run trials, nor storage that is away. So Tune is told to try for ever, until this sets the
    limit of a trial that has had its chances; its next attempt then ends at once.
    """

    def __init__(
        self, store: StudyStore, hang_watch: HangWatch, max_failures: int, find_trouble: Callable[[Any], str | None],
        progress: ProgressFile, is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._store, self._progress, self._is_stopping = store, progress, is_stopping
        self._hang_watch, self._max_failures, self._find_trouble = hang_watch, max_failures, find_trouble
        self._failures: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._given_up: set[str] = set()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The attempt failed and Tune tries again."""
        name = read_trial_id(trial)
        may_be_lost = self._hang_watch.reason(name) is None and self._losses[name] < _MOST_LOSSES
        if may_be_lost and (reason := find_storage_trouble(trial)) is not None:
            self._losses[name] += 1
            self._await_storage(name, f"the storage was away ({reason}); the trial goes on from its newest checkpoint")
            return
        if may_be_lost and (trouble := self._trouble(trial)) is not None:
            self._losses[name] += 1
            note = f"{trouble}; the trial goes on from its newest checkpoint"
            self._write(name, lambda folder: record_node_loss(folder, name, note))
            self._progress.note_lost_node(trouble)
            return
        self._failures[name] += 1
        if self._failures[name] > self._max_failures:
            trial.max_failures = 0
            self._given_up.add(name)
        self._record(trial)

    def _trouble(self, trial: Any) -> str | None:
        try:
            return self._find_trouble(trial)
        except Exception as error:  # noqa: BLE001 - Ray's own servers may be starting again
            _log.warning("whether the node of trial %s was lost cannot be told: %s", trial, error)
            return None

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune tries no more."""
        if read_trial_id(trial) not in self._given_up:
            self._given_up.add(read_trial_id(trial))
            self._record(trial)

    def _record(self, trial: Any) -> None:
        name = read_trial_id(trial)
        reason = self._hang_watch.reason(name) or failure_reason(trial)
        final = name in self._given_up
        self._write(name, lambda folder: record_failure(folder, name, reason, final=final))
        self._progress.note_failure(reason, retried=not final)

    def _await_storage(self, name: str, note: str) -> None:
        """Note it in the trial's state, as soon as that can be written; Tune starts nothing before."""
        started, said = time.monotonic(), False
        while True:
            try:
                self._store.change_trial(name, lambda folder: record_node_loss(folder, name, note))
            except (OSError, StudyFolderError) as error:
                waited_s = time.monotonic() - started
                if self._is_stopping() or waited_s > _STORAGE_BACK_WITHIN_S:
                    _log.warning("that the storage was away could not be recorded: %s", error)
                    return
                if not said:
                    print(
                        f"the study's storage cannot be written and is waited for: {first_line(error, 200)}", flush=True
                    )
                said = True
                time.sleep(_STORAGE_PAUSE_S)
                continue
            if said:
                print(f"the study's storage is back after {time.monotonic() - started:.0f} s", flush=True)
            return

    def _write(self, name: str, record: Callable[[StudyFolder], None]) -> None:
        try:
            self._store.change_trial(name, record)
        except (OSError, StudyFolderError) as error:
            _log.warning("the failure of trial %s could not be recorded: %s", name, error)


def failure_reason(trial: Any) -> str:
    """One line: the error that ended the trial's last attempt, from Tune's error file (its last section)."""
    try:
        section = Path(trial.error_file).read_text(errors="replace").rpartition("Failure #")[2]
    except (OSError, TypeError):
        section = ""
    lines = [line.strip() for line in section.splitlines()[1:] if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    said = (named or lines or ["the worker ended without an error message"])[-1]
    return said.removeprefix(_USER_CODE)[:500]  # a line of the user's says it all


def find_storage_trouble(trial: Any) -> str | None:
    """The error of the trial's last attempt where it was one of storage that is away or read-only; None where it was another."""
    reason = failure_reason(trial)
    return reason if _STORAGE_ERROR.search(reason) else None


def find_node_trouble(trial: Any) -> str | None:
    """What was wrong with the node of the trial's last attempt, lost or unfit; None where the attempt failed by itself."""
    reason = failure_reason(trial)
    if UnfitNodeError.__name__ in reason:
        return f"a node could not run it ({reason.partition(': ')[2]})"
    node = find_lost_node(trial)
    return node and f"{node} was lost"


def find_lost_node(trial: Any) -> str | None:
    """What to call the node that was lost under the trial's last attempt; None where the attempt failed by itself.

    Waits until Ray knows what became of the worker and of its node, at most a minute.
    """
    try:
        # Not trial.get_pickled_error(): that one looks in the study's storage, where Tune copies the error only later.
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())  # written by this process a moment ago
    except (OSError, TypeError, EOFError, pickle.UnpicklingError):
        return None
    if not isinstance(error, ray.exceptions.RayActorError) or error.actor_id is None:
        return None
    if error.preempted:
        return "a preempted node"
    # That the worker died, its raylet has told. A connection that broke tells nothing yet, nor does the actor's state, which Tune
    # has changed by giving the actor up.
    told = isinstance(error, ray.exceptions.ActorDiedError)
    deadline = time.monotonic() + (_STILL_ALIVE_AFTER_S if told else _DECIDED_WITHIN_S)
    while time.monotonic() < deadline:
        address = state.actors(error.actor_id).get("Address", {})
        node = address.get("NodeID")
        if node and node != _NO_NODE and node not in {alive["NodeID"] for alive in list_nodes()}:
            return f"node {address['IPAddress']} ({node[:8]})"
        time.sleep(_PAUSE_S)
    return None
