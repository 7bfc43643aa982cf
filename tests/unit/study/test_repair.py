"""Damaged study folders: what the checkpoints can rebuild is rebuilt and said, bit for bit; what is gone starts anew."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder import ledger
from study.folder.ledger import consolidate, open_ledger
from study.folder.repair import STUDY_COPY, repair_study, write_study
from tests.support.images import make_image_data
from tests.support.studies import build_cell, build_study
from trainable.config import TrialConfig
from trainable.records.checkpoint import list_checkpoints, load_newest_checkpoint
from trainable.records.trial_state import TrialState, read_state, write_state
from trainable.trial import Placement, run_trial

DATA = make_image_data()
GOOD = TrialConfig(
    dataset="synthetic", width=2, epochs=3, batch_size=32, learning_rate=0.05, noise_scale_every_epochs=0
)
DIVERGING = replace(GOOD, learning_rate=1000.0, weight_decay=10.0)
STUDY = build_study([build_cell("a", batch_size=64)], (0,), 192, {}, {})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a completed and a diverged trial."""
    folder = StudyFolder(tmp_path_factory.mktemp("original") / "study")
    write_study(folder, STUDY)
    for config in (GOOD, DIVERGING):
        state = TrialState(config, DATA.fingerprint)
        run_trial(config, DATA, folder.trial(state.trial_id), Placement(), checkpoint_interval_s=0)
    return folder.path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> StudyFolder:
    """A copy of it to be damaged."""
    shutil.copytree(original, tmp_path / "study")
    return StudyFolder(tmp_path / "study")


def trial_path(folder: StudyFolder, config: TrialConfig) -> Path:
    return folder.trial(TrialState(config, DATA.fingerprint).trial_id)


def test_a_whole_folder_needs_no_repair(folder: StudyFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    assert repair_study(folder) == []
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_no_folder_needs_no_repair(tmp_path: Path) -> None:
    assert repair_study(StudyFolder(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_study_json_comes_back_from_its_copy(folder: StudyFolder, damage: str) -> None:
    folder.study_json.unlink()
    if damage == "truncated":
        folder.study_json.write_text('{"name": ')
    (line,) = repair_study(folder)
    assert "study.json" in line
    assert STUDY_COPY in line
    assert folder.read_study() == STUDY


def test_study_json_and_copy_damaged_is_one_clear_error(folder: StudyFolder) -> None:
    folder.study_json.write_text("{")
    (folder.path / STUDY_COPY).write_text("{")
    with pytest.raises(StudyFolderError, match=r"study\.json: not valid JSON"):
        repair_study(folder)


@pytest.mark.parametrize("damage", ["truncated", "missing", "of another trial"])
def test_states_of_ended_trials_come_back_as_ended(folder: StudyFolder, damage: str) -> None:
    """Neither a completed nor a diverged trial is trained again because its trial.json is gone."""
    other = (trial_path(folder, DIVERGING) / "trial.json").read_text()
    for config in (GOOD, DIVERGING):
        path = trial_path(folder, config) / "trial.json"
        content = path.read_text()
        path.unlink()
        if damage != "missing":
            path.write_text(content[:100] if damage == "truncated" else other.replace('"seed": 0', '"seed": 7'))
    lines = repair_study(folder)
    assert len(lines) == 2
    assert all("rebuilt from epoch-0000" in line for line in lines)
    ledger = open_ledger(folder, [GOOD, DIVERGING], DATA.fingerprint)
    assert [state.status for state in ledger.done] == ["completed", "diverged"]
    assert all("times, hardware and attempts before are lost" in state.notes[0] for state in ledger.done)


def test_a_trial_of_which_nothing_is_left_starts_anew(folder: StudyFolder) -> None:
    path = trial_path(folder, GOOD)
    (path / "trial.json").write_text("{")
    for checkpoint in list_checkpoints(path):
        checkpoint.write_bytes(b"")
    (line,) = repair_study(folder)
    assert "starts anew" in line
    assert [state.config for state in open_ledger(folder, [GOOD], DATA.fingerprint).to_run] == [GOOD]


@pytest.mark.parametrize("kind", ["epochs", "steps", "layers"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped"])
def test_records_are_rebuilt_from_the_checkpoint(folder: StudyFolder, kind: str, damage: str) -> None:
    consolidate(folder)
    before = folder.records(kind).read_bytes()
    path = trial_path(folder, GOOD) / f"{kind}.parquet"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2 :] = b"" if damage == "truncated" else b"\xff" * (len(content) - len(content) // 2)
        path.write_bytes(content)
    consolidate(folder)
    assert folder.records(kind).read_bytes() == before
    state = read_state(trial_path(folder, GOOD))
    assert state is not None
    assert state.status == "completed"
    assert f"{kind}.parquet" in state.notes[0]
    assert "rebuilt from epoch-00003" in state.notes[0]


def test_records_and_checkpoints_gone_means_that_the_trial_runs_again(folder: StudyFolder) -> None:
    path = trial_path(folder, GOOD)
    (path / "steps.parquet").write_bytes(b"PAR1")
    for checkpoint in list_checkpoints(path):
        checkpoint.unlink()
    states = {state.config: state for state in consolidate(folder)}
    assert (states[GOOD].status, states[DIVERGING].status) == ("pending", "diverged")
    assert "no whole checkpoint is left" in str(states[GOOD].reason)
    assert folder.read_records("epochs").column("trial_id").unique().to_pylist() == [states[DIVERGING].trial_id]
    assert [state.config for state in open_ledger(folder, [GOOD, DIVERGING], DATA.fingerprint).to_run] == [GOOD]


def test_an_older_checkpoint_rebuilds_a_part_and_the_rest_runs_again(folder: StudyFolder) -> None:
    path = trial_path(folder, GOOD)
    (path / "steps.parquet").unlink()
    newest, older = list_checkpoints(path)
    newest.write_bytes(b"")
    state = next(state for state in consolidate(folder) if state.config == GOOD)
    assert (state.status, state.epochs_completed) == ("pending", int(older.name[6:11]))
    again = run_trial(GOOD, DATA, path, Placement())
    assert (again.status, again.epochs_completed) == ("completed", 3)


def test_a_trial_that_cannot_be_rebuilt_does_not_keep_the_others_from_being_gathered(folder: StudyFolder) -> None:
    path = trial_path(folder, GOOD) / "epochs.parquet"
    path.unlink()
    path.mkdir()
    states = consolidate(folder)
    assert len(states) == 2
    assert folder.read_records("trials").num_rows == 2


def test_a_trial_that_ends_while_others_are_gathered_is_not_pending_again(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records were gone when it was listed; its worker has written them and its state since."""
    path = trial_path(folder, GOOD)
    ended = read_state(path)
    assert ended is not None
    older = replace(ended, status="pending", epochs_completed=1, ended_at=None)
    (path / "steps.parquet").unlink()
    read = ledger.read_trial_records

    def read_as_the_trial_ends(of: StudyFolder, state: TrialState) -> dict[str, pa.Table]:
        if state == older:
            write_state(path, ended)
        return read(of, state)

    write_state(path, older)
    monkeypatch.setattr(ledger, "read_trial_records", read_as_the_trial_ends)
    states = {state.config: state for state in consolidate(folder)}
    assert read_state(path) == states[GOOD]
    assert (states[GOOD].status, states[GOOD].epochs_completed) == ("completed", 3)


def test_a_diverged_epoch_is_trained_again_and_ends_the_same(folder: StudyFolder) -> None:
    """A crash after the checkpoint of that epoch and before the state was written."""
    path = trial_path(folder, DIVERGING)
    before, records = read_state(path), (path / "steps.parquet").read_bytes()
    assert before is not None
    checkpoint, problems = load_newest_checkpoint(path, DIVERGING, DATA.fingerprint)
    assert problems == []
    assert checkpoint is None or checkpoint.epoch < before.epochs_completed
    (path / "steps.parquet").unlink()
    after = run_trial(DIVERGING, DATA, path, Placement())
    assert (after.status, after.reason, after.epochs_completed) == (
        before.status,
        before.reason,
        before.epochs_completed,
    )
    assert (path / "steps.parquet").read_bytes() == records


def test_a_truncated_layer_table_or_sample_file_is_made_again(folder: StudyFolder) -> None:
    folder.samples.write_bytes(b"PK")
    folder.telling_images.write_bytes(b"PK")
    folder.records("model").write_bytes(b"PAR1")
    assert len(repair_study(folder)) == 3
    assert not folder.samples.exists()
    assert not folder.telling_images.exists()
    assert not folder.records("model").exists()
