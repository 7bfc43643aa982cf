"""Reading a search's journal: what Optuna wrote comes back, nothing is written or run, what does not fit is one clear line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis.records.study_folder import StudyFolderError
from analysis.search.journal import Journal, read_journal
from tests.support.made_up_inputs import try_inputs
from tests.support.search_studies import PUBLISHED, write_search_study


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search_study(tmp_path_factory.mktemp("search") / "made", num_trials=24).search_journal


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "search.journal"
    copied.write_bytes(path.read_bytes())
    return copied


def test_everything_that_optuna_wrote_comes_back(path: Path, copy: Path) -> None:
    theirs = optuna.load_study(study_name="made", storage=JournalStorage(JournalFileBackend(str(copy)))).trials
    journal = read_journal(path, ["made"])
    assert journal.directions == ("maximize",)
    assert len(journal.trials) == len(theirs) == 24
    assert {trial.state for trial in journal.trials} == {"COMPLETE", "PRUNED", "FAIL"}
    for ours, trial in zip(journal.trials, theirs, strict=True):
        assert (ours.number, ours.state, dict(ours.parameters)) == (trial.number, trial.state.name, trial.params)
        assert dict(ours.curve) == trial.intermediate_values
        assert list(ours.values) == ([trial.value] if trial.state.name == "COMPLETE" else [])
        assert ours.trial_id == trial.user_attrs["trial_id"]
        assert ours.reason == trial.user_attrs.get("reason", "")
        assert ours.enqueued == (trial.number < len(PUBLISHED))
        assert ours.seconds == pytest.approx(trial.duration.total_seconds() if trial.duration else None)


def test_reading_leaves_the_folder_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in path.parent.iterdir() if f.is_file()}

    before = state()
    monkeypatch.setattr(pickle, "loads", lambda *_, **__: pytest.fail("a pickle was read"))
    read_journal(path, ["made"])
    assert state() == before


def test_an_absent_journal_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match=r"search\.journal: missing"):
        read_journal(tmp_path / "search.journal", ["made"])
    assert list(tmp_path.iterdir()) == []


def test_the_line_that_is_being_written_is_left_out(copy: Path) -> None:
    whole = read_journal(copy, ["made"])
    with copy.open("ab") as file:
        file.write(b'{"op_code":6,"worker_')
    assert read_journal(copy, ["made"]) == whole


def test_the_search_of_another_study_is_refused_by_name(path: Path) -> None:
    with pytest.raises(StudyFolderError, match="the search of another study: it holds made"):
        read_journal(path, ["other"])
    assert len(read_journal(path, ["other", "made"]).trials) == 24


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was read",)


CREATE = {"op_code": 0, "worker_id": "w", "study_name": "made", "directions": [2]}
TRIAL = {"op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": "2026-01-01T00:00:00"}
DONE = {"op_code": 6, "worker_id": "w", "trial_id": 0, "state": 1, "datetime_complete": "2026-01-01T00:00:01"}
PARAMETER = {"op_code": 5, "worker_id": "w", "trial_id": 0, "param_name": "x", "param_value_internal": 0}
CHOICES = '{"name": "CategoricalDistribution", "attributes": {"choices": [[1]]}}'


def lines(*entries: object) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff\n",
        pickle.dumps(_Bomb()) + b"\n",
        b"[" * 100_000 + b"\n",
        lines([1, 2]),
        lines({"no": "operation"}),
        lines({"op_code": 99}),
        lines({"op_code": "__import__('os')"}),
        lines({"op_code": 0}),
        lines({**CREATE, "directions": ["up"]}),
        lines({**CREATE, "study_name": ["made"]}),
        lines(CREATE, {**TRIAL, "datetime_start": 5}),
        lines(CREATE, {**TRIAL, "state": 77}),
        lines(CREATE, TRIAL, {**DONE, "values": ["high"]}),
        lines(CREATE, TRIAL, {**DONE, "values": [0.5, 0.5]}),
        lines(CREATE, TRIAL, {**DONE, "values": {"a": 1}}),
        lines(CREATE, TRIAL, {**PARAMETER, "distribution": "{}"}),
        lines(CREATE, TRIAL, {**PARAMETER, "distribution": '{"name": "object", "attributes": {}}'}),
        lines(CREATE, TRIAL, {**PARAMETER, "distribution": CHOICES}),
        lines(CREATE, {**TRIAL, "intermediate_values": {"one": 1.0}}),
        lines(CREATE, {**TRIAL, "intermediate_values": {"1": "high"}}),
        lines(CREATE, {**TRIAL, "intermediate_values": {"-1": 0.5}}),
        lines(CREATE, {**TRIAL, "intermediate_values": {"1" * 30: 0.5}}),
        lines(CREATE, TRIAL, {**PARAMETER, "distribution": CHOICES.replace("[1]", "1" * 400)}),
        lines(CREATE, {**TRIAL, "user_attrs": 5}),
        lines(CREATE, {**TRIAL, "system_attrs": None}),
        lines({**CREATE, "study_name": "\u202e<script>\n"}),
        b"",
    ],
)
def test_what_is_no_journal_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    path.write_bytes(content)
    with pytest.raises(StudyFolderError) as caught:
        read_journal(path, ["made"])
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()


def test_a_folder_in_its_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match="cannot be read"):
        read_journal(tmp_path, ["made"])


@try_inputs(150)
@given(data=st.data())
def test_a_journal_with_any_change_is_read_or_refused(path: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes()[:6_000])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=8))
    changed = tmp_path / "changed.journal"
    changed.write_bytes(bytes(content))
    complaint = ""
    try:
        read: Journal | None = read_journal(changed, ["made"])
    except StudyFolderError as error:
        read, complaint = None, str(error)
    assert read is not None or len(complaint.splitlines()) == 1
