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
from study.storage.url_store import FolderPlace
from tests.support.journals import DATA, open_folder, small_spec, train_epochs


class Silent:
    """A progress display that shows nothing."""

    def add(self, state: Any) -> None:
        """Nothing."""


class Moody(FolderPlace):
    """A place whose store is away while `away` is set."""

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
def place(tmp_path: Path) -> Moody:
    return Moody(open_folder(tmp_path))


def test_a_suggestion_waits_for_the_store_and_is_made_once(place: Moody) -> None:
    journal = SearchJournal(place.folder, small_spec(trials=2), DATA)
    searcher = JournalSearcher(journal, place, Silent(), lambda: False)  # type: ignore[arg-type]
    place.away = True
    assert searcher.suggest("a") is None
    assert searcher.suggest("a") is None
    place.away = False
    first = searcher.suggest("a")
    assert first["trial"]["trial_id"] == journal.trials[0].user_attrs["trial_id"]
    train_epochs(place.folder, journal.states()[0], 9, "completed")
    searcher.on_trial_complete("a")
    place.away = True
    assert searcher.suggest("b") is None
    assert journal.trials[0].state.name == "RUNNING", "how it ended cannot be read yet"
    place.away = False
    assert searcher.suggest("b")["trial"]["trial_id"] == journal.trials[1].user_attrs["trial_id"]
    assert journal.trials[0].state.name == "COMPLETE"
    assert searcher.suggest("c") == Searcher.FINISHED
    assert len(journal.trials) == 2


def test_a_request_to_prune_is_repeated_until_it_is_there(place: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = SearchJournal(place.folder, small_spec(), DATA)
    searcher = JournalSearcher(journal, place, Silent(), lambda: False)  # type: ignore[arg-type]
    trial = searcher.suggest("a")["trial"]["trial_id"]
    verdicts = iter(["behind", None, None])
    monkeypatch.setattr(journal, "observe", lambda number, epoch, values: next(verdicts))
    write = type(place.storage).write

    def refuse(self: Any, name: str, content: bytes) -> None:
        raise StorageError("away")

    monkeypatch.setattr(type(place.storage), "write", refuse)
    searcher.on_trial_result("a", {"train_loss": 1.0, "epoch": 1})
    monkeypatch.setattr(type(place.storage), "write", write)
    assert read_pruning_request(place.storage, trial, 1) is None
    searcher.on_trial_result("a", {"train_loss": 1.0, "epoch": 2})
    assert read_pruning_request(place.storage, trial, 2) == "behind"
    assert read_pruning_request(place.storage, trial, 1) is None, (
        "asked for after an epoch that was lost and is repeated"
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"epoch": "1", "reason": "x"}', json.dumps({"epoch": 1}).encode()]
)
def test_a_damaged_request_prunes_nothing(place: Moody, content: bytes) -> None:
    path = place.folder.trial("t") / "prune.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert read_pruning_request(place.storage, "t", 1) is None
