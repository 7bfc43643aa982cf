"""The search as Tune drives it, where its storage does not answer for a moment: it waits, and forgets nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from study.driver.searcher import JournalSearcher
from study.driver.trial_runner import read_pruning_request
from study.search.journal import SearchJournal
from study.storage.object_store import StorageError
from study.storage.study_store import FolderStore
from tests.support.journals import DATA, open_folder, small_spec, train_epochs


class Silent:
    """A progress display that shows nothing."""

    def add(self, state: Any) -> None:
        """Nothing."""


class Moody(FolderStore):
    """A store that is away while `away` is set."""

    away = False

    def put_file(self, name: str) -> None:
        """Refused while the store is away."""
        self._answer()

    def fetch_trial(self, trial_id: str) -> None:
        """Refused while the store is away."""
        self._answer()

    def _answer(self) -> None:
        if self.away:
            raise StorageError("away")


@pytest.fixture
def store(tmp_path: Path) -> Moody:
    return Moody(open_folder(tmp_path))


def test_a_suggestion_waits_for_the_store_and_is_made_once(store: Moody) -> None:
    journal = SearchJournal(store.folder, small_spec(trials=2), DATA)
    searcher = JournalSearcher(journal, store, Silent(), lambda: False)  # type: ignore[arg-type]
    store.away = True
    assert searcher.suggest("a") is None
    assert searcher.suggest("a") is None
    store.away = False
    first = searcher.suggest("a")
    assert first["trial"]["trial_id"] == journal.trials[0].user_attrs["trial_id"]
    train_epochs(store.folder, journal.states()[0], 9, "completed")
    searcher.on_trial_complete("a")
    store.away = True
    assert searcher.suggest("b") is None
    assert journal.trials[0].state.name == "RUNNING", "how it ended cannot be read yet"
    store.away = False
    assert searcher.suggest("b")["trial"]["trial_id"] == journal.trials[1].user_attrs["trial_id"]
    assert journal.trials[0].state.name == "COMPLETE"
    assert searcher.suggest("c") == Searcher.FINISHED
    assert len(journal.trials) == 2


def test_a_request_to_prune_is_repeated_until_it_is_there(store: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = SearchJournal(store.folder, small_spec(), DATA)
    searcher = JournalSearcher(journal, store, Silent(), lambda: False)  # type: ignore[arg-type]
    trial = searcher.suggest("a")["trial"]["trial_id"]
    verdicts = iter(["behind", None, None])
    monkeypatch.setattr(journal, "observe", lambda number, epoch, values: next(verdicts))
    write = type(store.trial_storage).write

    def refuse(self: Any, name: str, content: bytes) -> None:
        raise StorageError("away")

    monkeypatch.setattr(type(store.trial_storage), "write", refuse)
    searcher.on_trial_result("a", {"train_loss": 1.0, "epoch": 1})
    monkeypatch.setattr(type(store.trial_storage), "write", write)
    assert read_pruning_request(store.trial_storage, trial, 1) is None
    searcher.on_trial_result("a", {"train_loss": 1.0, "epoch": 2})
    assert read_pruning_request(store.trial_storage, trial, 2) == "behind"
    assert read_pruning_request(store.trial_storage, trial, 1) is None, (
        "asked for after an epoch that was lost and is repeated"
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"epoch": "1", "reason": "x"}', json.dumps({"epoch": 1}).encode()]
)
def test_a_damaged_request_prunes_nothing(store: Moody, content: bytes) -> None:
    path = store.folder.trial("t") / "prune.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert read_pruning_request(store.trial_storage, "t", 1) is None
