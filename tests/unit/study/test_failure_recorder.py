"""What counts as a failure of a trial: its own errors do, the loss of its node does not."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from analysis.records.study_folder import StudyFolder
from study.cluster.node_probe import UnfitNodeError, require_versions, versions
from study.driver import failures
from study.driver.failures import FailureRecorder, HangWatch, find_node_trouble
from study.driver.trial_runner import _can_use_gpu
from study.folder.ledger import load_state
from study.folder.progress_file import ProgressFile, StudyProgress
from study.storage.study_store import FolderStore
from trainable.config import TrialConfig
from trainable.records.trial_state import TrialState, write_state

STATE = TrialState(TrialConfig(), "data", status="running", attempts=1)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(StudyFolder(tmp_path))
    write_state(store.folder.trial(STATE.trial_id), STATE)
    return store


def fail(store: FolderStore, max_failures: int, outcomes: list[str | None]) -> tuple[Any, TrialState, StudyProgress]:
    """Attempts that end one after the other, each by the loss of the named node or by itself.

    Tune's trial, our state, and what the progress file says.
    """
    answers = iter(outcomes)
    recorder = FailureRecorder(
        store,
        HangWatch(None),
        max_failures,
        lambda trial: (node := next(answers)) and f"{node} was lost",
        progress := ProgressFile(),
    )
    trial: Any = SimpleNamespace(config={"trial": {"trial_id": STATE.trial_id}}, max_failures=-1, error_file=None)
    for _ in outcomes:
        recorder.on_trial_recover(0, [trial], trial)
    state = load_state(store.folder, STATE.trial_id)
    assert state is not None
    return trial, state, progress.progress


@pytest.mark.parametrize("max_failures", [0, 2])
def test_lost_nodes_are_noted_and_not_counted(store: FolderStore, max_failures: int) -> None:
    trial, state, _ = fail(store, max_failures, ["node a", "node b", "node a"])
    assert (state.status, state.failures) == ("pending", ())
    assert [note.partition(" was lost")[0] for note in state.notes] == ["node a", "node b", "node a"]
    assert trial.max_failures == -1, "Tune goes on"


def test_a_trial_is_given_up_after_its_own_failures(store: FolderStore) -> None:
    trial, state, _ = fail(store, 1, [None, "node a"])
    assert (state.status, len(state.failures), trial.max_failures) == ("pending", 1, -1)
    trial, state, _ = fail(store, 1, ["node a", None, "node b", None])
    assert (state.status, trial.max_failures) == ("failed", 0)


def test_the_progress_file_counts_failures_retries_and_nodes(store: FolderStore) -> None:
    """A node counts once, however many trials it had; the failure that was the last one of its trial is not tried again."""
    _, _, progress = fail(store, 1, ["node a", None, "node b", "node a", None])
    assert (progress.num_failures, progress.num_retries) == (2, 1)
    assert progress.last_failure == "the worker ended without an error message"
    assert (progress.num_lost_nodes, progress.last_lost_node) == (2, "node a was lost")


def test_a_trial_that_ends_node_after_node_is_given_up_too(store: FolderStore) -> None:
    _, state, _ = fail(store, 0, ["node"] * 20 + [None])
    assert (state.status, len(state.notes)) == ("failed", 20)
    recorder = FailureRecorder(store, HangWatch(None), 0, lambda trial: "node", ProgressFile())
    trial: Any = SimpleNamespace(config={"trial": {"trial_id": STATE.trial_id}}, max_failures=-1, error_file=None)
    for _ in range(21):
        recorder.on_trial_recover(0, [trial], trial)
    assert trial.max_failures == 0


def test_what_tune_ends_by_itself_has_failed(store: FolderStore) -> None:
    trial, _, _ = fail(store, 5, [])
    recorder = FailureRecorder(store, HangWatch(None), 5, lambda trial: None, ProgressFile())
    recorder.on_trial_error(0, [trial], trial)
    recorder.on_trial_error(0, [trial], trial)
    state = load_state(store.folder, STATE.trial_id)
    assert state is not None
    assert (state.status, len(state.failures)) == ("failed", 1)


def test_what_cannot_be_told_of_a_node_is_a_failure_and_no_error(store: FolderStore) -> None:
    def find(trial: Any) -> str | None:
        raise ConnectionError("Ray's servers are starting again")

    trial: Any = SimpleNamespace(config={"trial": {"trial_id": STATE.trial_id}}, max_failures=-1, error_file=None)
    FailureRecorder(store, HangWatch(None), 5, find, ProgressFile()).on_trial_recover(0, [trial], trial)
    state = load_state(store.folder, STATE.trial_id)
    assert state is not None
    assert len(state.failures) == 1


def test_a_node_that_cannot_run_trials_is_no_failure_of_theirs(store: FolderStore, tmp_path: Path) -> None:
    """As Tune writes the error of a worker into its file."""
    error_file = tmp_path / "error.txt"
    error_file.write_text(
        "Failure # 1 (occurred at 2026-01-01)\nTraceback ...\n"
        "study.node_probe.UnfitNodeError: far has torch 1.0, the driver torch 2.0; they must be the same\n"
    )
    trial: Any = SimpleNamespace(config={"trial": {"trial_id": STATE.trial_id}}, max_failures=-1, error_file=error_file)
    FailureRecorder(store, HangWatch(None), 0, find_node_trouble, ProgressFile()).on_trial_recover(0, [trial], trial)
    state = load_state(store.folder, STATE.trial_id)
    assert state is not None
    assert (state.status, state.failures, trial.max_failures) == ("pending", (), -1)
    assert "a node could not run it (far has torch 1.0, the driver torch 2.0; they must be the same)" in state.notes[0]


class StoreThatWasAway(FolderStore):
    """Cannot be written until it was asked so often."""

    num_refusals = 2

    def change_trial(self, trial_id: str, change: Callable[[StudyFolder], None]) -> None:
        self.num_refusals -= 1
        if self.num_refusals >= 0:
            raise OSError(errno.EROFS, "Read-only file system")
        super().change_trial(trial_id, change)


@pytest.mark.parametrize(
    "reason",
    [
        "OSError: [Errno 30] Read-only file system: '/results/trials/a/trial.json'",
        "OSError: [Errno 116] Stale file handle",
        "study.storage.object_store.StorageError: s3://bucket/results: AWS Error NETWORK_CONNECTION",
    ],
)
def test_storage_that_is_away_is_waited_for_and_no_failure_of_a_trial(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    monkeypatch.setattr(failures, "_STORAGE_PAUSE_S", 0.01)
    state, trial = fail_with(StoreThatWasAway(store.folder), tmp_path, reason)
    assert (state.status, state.failures, trial.max_failures) == ("pending", (), -1)
    assert state.notes[0].startswith(f"the storage was away ({reason})")
    said = capsys.readouterr().out
    assert "cannot be written and is waited for: [Errno 30] Read-only file system" in said
    assert "is back after 0 s" in said


def test_a_study_that_is_stopped_waits_for_no_storage(store: FolderStore, tmp_path: Path) -> None:
    away = StoreThatWasAway(store.folder)
    state, _ = fail_with(away, tmp_path, "OSError: [Errno 5] Input/output error", is_stopping=True)
    assert (state.status, state.notes, away.num_refusals) == ("running", (), 1)


@pytest.mark.parametrize("reason", ["OSError: [Errno 28] No space left on device", "IsADirectoryError: [Errno 21] x"])
def test_a_full_disk_is_a_failure(store: FolderStore, tmp_path: Path, reason: str) -> None:
    state, trial = fail_with(store, tmp_path, reason)
    assert (state.failures, trial.max_failures) == ((reason,), 0)


def fail_with(store: FolderStore, folder: Path, reason: str, *, is_stopping: bool = False) -> tuple[TrialState, Any]:
    """An attempt that ends with this error, as Tune writes it, where no failure is allowed."""
    (folder / "error.txt").write_text(f"Failure # 1 (occurred at 2026-01-01)\nTraceback ...\n{reason}\n")
    trial: Any = SimpleNamespace(
        config={"trial": {"trial_id": STATE.trial_id}}, max_failures=-1, error_file=folder / "error.txt"
    )
    recorder = FailureRecorder(store, HangWatch(None), 0, lambda trial: None, ProgressFile(), lambda: is_stopping)
    recorder.on_trial_recover(0, [trial], trial)
    state = load_state(store.folder, STATE.trial_id)
    assert state is not None
    return state, trial


@pytest.mark.parametrize(
    ("node", "lost"), [(ray.NodeID.nil().hex(), None), ("a" * 56, "node far (aaaaaaaa)"), ("b" * 56, None)]
)
def test_only_a_node_that_there_was_can_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, lost: str | None
) -> None:
    """Ray names no node for a worker that it gave up before it ran."""
    file = tmp_path / "error.pkl"
    file.write_bytes(pickle.dumps(ray.exceptions.RayActorError("c" * 32)))
    monkeypatch.setattr(failures, "_DECIDED_WITHIN_S", 0.01)
    monkeypatch.setattr("ray._private.state.actors", lambda actor: {"Address": {"NodeID": node, "IPAddress": "far"}})
    monkeypatch.setattr(failures, "list_nodes", lambda: [{"NodeID": "b" * 56}])
    assert failures.find_lost_node(SimpleNamespace(pickled_error_file=str(file))) == lost


def test_a_node_with_other_versions_or_without_its_gpu_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    require_versions(versions())
    with pytest.raises(UnfitNodeError, match=r"has Python .*, the driver Python 2\.7; they must be the same"):
        require_versions("Python 2.7")
    monkeypatch.delenv("STUDY_CPU_FOR_GPU", raising=False)
    with pytest.raises(
        UnfitNodeError, match=r"cannot train on its GPU \(Ray gave it none\): see to its driver, or set"
    ):
        _can_use_gpu(False)
    monkeypatch.setenv("STUDY_CPU_FOR_GPU", "1")
    assert not _can_use_gpu(False)
