"""A trial in its folder: state, checkpoints and records, when it ends, is stopped, fails, diverges or is started again."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.images import make_image_data
from trainable import trial
from trainable.config import TrialConfig, trial_id
from trainable.records.checkpoint import list_checkpoints
from trainable.records.trial_state import TrialState, TrialStateError, read_state, write_state
from trainable.training.loop import EpochResult
from trainable.trial import Placement, TrialSupersededError, run_trial

CONFIG = TrialConfig(
    dataset="synthetic", width=2, epochs=3, batch_size=32, learning_rate=0.05, noise_scale_every_epochs=0
)
DATA = make_image_data()
HERE = Placement(num_threads=1)


def test_a_completed_trial_leaves_state_checkpoint_and_records(tmp_path: Path) -> None:
    epochs: list[int] = []
    state = run_trial(CONFIG, DATA, tmp_path, HERE, on_epoch=lambda result: epochs.append(result.epoch))
    assert epochs == [1, 2, 3]
    assert (state.status, state.epochs_completed, state.attempts, state.failures) == ("completed", 3, 1, ())
    assert read_state(tmp_path) == state
    assert len(list_checkpoints(tmp_path)) == 1  # none was due before the end
    assert pq.read_table(tmp_path / "epochs.parquet")["epoch"].to_pylist() == [1, 2, 3]
    assert pq.read_table(tmp_path / "layers.parquet").num_rows == 3 * 2 * 62  # the first step of an epoch, and its last


def test_checkpoints_are_written_while_training_when_the_interval_is_short(tmp_path: Path) -> None:
    seen: list[int] = []

    def count(result: EpochResult) -> None:
        seen.append(len(list_checkpoints(tmp_path)))

    run_trial(replace(CONFIG, epochs=6), DATA, tmp_path, HERE, on_epoch=count, checkpoint_interval_s=0)
    assert max(seen) >= 1
    assert len(list_checkpoints(tmp_path)) == 2


def test_a_stopped_trial_keeps_every_whole_epoch_and_goes_on(tmp_path: Path) -> None:
    stop = threading.Event()
    state = run_trial(CONFIG, DATA, tmp_path, HERE, stop=stop, on_epoch=lambda r: stop.set() if r.epoch == 2 else None)
    assert (state.status, state.reason, state.epochs_completed) == ("pending", "interrupted", 2)
    later: list[int] = []
    state = run_trial(CONFIG, DATA, tmp_path, HERE, on_epoch=lambda result: later.append(result.epoch))
    assert later == [3]
    assert (state.status, state.attempts) == ("completed", 2)
    whole = run_trial(CONFIG, DATA, tmp_path / "whole", HERE)
    assert whole.trial_id == state.trial_id
    for kind in ("steps", "layers"):
        assert pq.read_table(tmp_path / f"{kind}.parquet").equals(pq.read_table(tmp_path / "whole" / f"{kind}.parquet"))


def test_a_stopped_trial_saves_before_its_step_is_over(tmp_path: Path) -> None:
    """On a slow machine a step may last longer than the patience of whoever stops the trial, and kills it then."""
    stop = threading.Event()
    saved_while_blocked: list[int] = []

    def block(result: EpochResult) -> None:
        stop.set()
        deadline = time.monotonic() + 20
        while not (state := read_state(tmp_path)) or state.epochs_completed < result.epoch:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        saved_while_blocked.append(list_checkpoints(tmp_path)[0].stat().st_size)

    run_trial(CONFIG, DATA, tmp_path, HERE, stop=stop, on_epoch=block)
    assert len(saved_while_blocked) == 1


def test_a_failing_trial_saves_what_it_had_and_raises(tmp_path: Path) -> None:
    def fail(result: EpochResult) -> None:
        if result.epoch == 2:
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        run_trial(CONFIG, DATA, tmp_path, HERE, on_epoch=fail)
    assert [path.name[:11] for path in list_checkpoints(tmp_path)] == ["epoch-00002"]
    state = run_trial(CONFIG, DATA, tmp_path, HERE)
    assert (state.status, state.attempts) == ("completed", 2)


def test_the_first_failure_is_raised_where_saving_fails_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a CUDA error every later use of the device fails as well, with an error that says less."""

    def fail(result: EpochResult) -> None:
        raise ValueError("planted")

    def fail_again(*_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(trial, "write_checkpoint", fail_again)
    with pytest.raises(ValueError, match="planted"):
        run_trial(CONFIG, DATA, tmp_path, HERE, on_epoch=fail)


def test_a_diverged_trial_is_an_outcome_with_records(tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=1000.0, weight_decay=10.0, epochs=5)
    state = run_trial(config, DATA, tmp_path, HERE)
    assert state.status == "diverged"
    assert state.finished
    assert "loss not finite in epoch" in str(state.reason)
    assert pq.read_table(tmp_path / "epochs.parquet").num_rows == state.epochs_completed


def test_a_finished_trial_started_again_trains_nothing(tmp_path: Path) -> None:
    run_trial(CONFIG, DATA, tmp_path, HERE)
    (tmp_path / "layers.parquet").unlink()
    epochs: list[int] = []
    state = run_trial(CONFIG, DATA, tmp_path, HERE, on_epoch=lambda result: epochs.append(result.epoch))
    assert epochs == []
    assert state.status == "completed"
    assert (tmp_path / "layers.parquet").exists()  # records come back from the checkpoint


def test_a_damaged_checkpoint_is_noted(tmp_path: Path) -> None:
    run_trial(CONFIG, DATA, tmp_path, HERE)
    newest = list_checkpoints(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    state = run_trial(CONFIG, DATA, tmp_path, HERE)
    assert state.status == "completed"
    assert newest.name in state.notes[0]


def test_epochs_that_other_code_or_another_torch_trained_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_one_epoch() -> TrialState:
        stop = threading.Event()
        return run_trial(CONFIG, DATA, tmp_path, HERE, stop=stop, on_epoch=lambda result: stop.set())

    monkeypatch.setattr(trial, "code_fingerprint", lambda: "old")
    first = train_one_epoch()
    monkeypatch.setattr(trial, "code_fingerprint", lambda: "new")
    second = train_one_epoch()
    assert first.notes == ()
    assert (second.code_fingerprint, second.epochs_completed) == ("new", 2)
    note = f"attempt 2 went on after epoch 1 with code new and torch {first.torch_version}; until then it was code old and "
    assert [text.startswith(note) for text in second.notes] == [True]
    write_state(tmp_path, replace(second, torch_version="1.0"))
    third = run_trial(CONFIG, DATA, tmp_path, HERE)
    assert third.notes[0] == second.notes[0]
    assert third.notes[1].endswith("until then it was code new and torch 1.0")
    assert run_trial(CONFIG, DATA, tmp_path, HERE).notes == third.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "excellent"}, "unknown status"),
        ({"config": {**CONFIG.to_dict(), "width": 0}}, "width=0"),
        ({"config": {"width": 8}}, "a configuration without batch_size"),
        ({"config": {**CONFIG.to_dict(), "colour": 1}}, "'colour' that only a newer version of this project knows"),
        ({"attempts": 2**31}, "attempts=2147483648 cannot be"),
        ({"attempts": True}, "field 'attempts'"),
        ({"data_fingerprint": "other"}, "does not match its id"),
        ({"failures": ["once", 2]}, "field 'failures.1'"),
        ({"config": None}, "not the state of a trial"),
    ],
)
def test_a_damaged_state_is_refused_with_its_file(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_state(tmp_path, TrialState(config=CONFIG, data_fingerprint="d"))
    content = json.loads((tmp_path / "trial.json").read_text())
    (tmp_path / "trial.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(TrialStateError, match=message) as caught:
        read_state(tmp_path)
    assert "trial.json" in str(caught.value)


def test_state_survives_the_disk(tmp_path: Path) -> None:
    state = TrialState(
        config=CONFIG, data_fingerprint="d", status="failed", reason="a", failures=("b", "c"), wall_time_s=1.5
    )
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert state.trial_id == trial_id(CONFIG, "d")
    assert state.to_row()["failures"] == 2


def test_whoever_keeps_copies_hears_of_every_save(tmp_path: Path) -> None:
    saved: list[tuple[str, int, int]] = []

    def note() -> None:
        state = read_state(tmp_path)
        assert state is not None
        saved.append((state.status, state.epochs_completed, len(list_checkpoints(tmp_path))))

    run_trial(CONFIG, DATA, tmp_path, HERE, on_saved=note)
    assert saved[0] == ("running", 0, 0)
    assert saved[-2:] == [("running", 3, 1), ("completed", 3, 1)]


def test_an_attempt_that_was_given_up_for_lost_writes_nothing_more(tmp_path: Path) -> None:
    """Its node comes back while the trial runs elsewhere: the later attempt is the one that counts."""

    def take_over(result: EpochResult) -> None:
        state = read_state(tmp_path)
        assert state is not None
        write_state(tmp_path, replace(state, attempts=2, hostname="elsewhere"))

    with pytest.raises(TrialSupersededError, match="attempt 2 has taken over from attempt 1"):
        run_trial(replace(CONFIG, epochs=1), DATA, tmp_path, HERE, on_epoch=take_over)
    assert list_checkpoints(tmp_path) == []
    state = read_state(tmp_path)
    assert state is not None
    assert (state.attempts, state.hostname, state.status) == (2, "elsewhere", "running")


@pytest.mark.parametrize(
    ("second", "timed"),
    [(HERE, True), (Placement(num_threads=2), False), (Placement(num_threads=1, gpu_share=0.5), False)],
)
def test_times_of_a_trial_that_changed_its_hardware_are_no_results(
    tmp_path: Path, second: Placement, timed: bool
) -> None:
    stop = threading.Event()
    run_trial(CONFIG, DATA, tmp_path, HERE, stop=stop, on_epoch=lambda result: stop.set())
    assert run_trial(CONFIG, DATA, tmp_path, second).timing_exclusive is timed


def test_a_trial_that_had_trained_nothing_elsewhere_is_timed(tmp_path: Path) -> None:
    write_state(tmp_path, TrialState(CONFIG, DATA.fingerprint, attempts=1, hardware="another", num_threads=8))
    assert run_trial(CONFIG, DATA, tmp_path, HERE).timing_exclusive
