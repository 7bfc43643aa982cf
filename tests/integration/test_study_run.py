"""`python -m study.run` with a real Ray: one study from its first start to its last seed, because each start costs seconds.

It is terminated while W&B follows it, goes on, loses a worker, ends with its tables, is asked for again, and gets another seed. One of
its three trials diverges. SIGINT is in test_tracking.py, SIGKILL in test_search.py; both are run by `make test-faults`.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import psutil
import pytest

import analysis
from tests.support.faults import PLANTED_SECRET, Workplace
from tests.support.wandb_files import read_offline_runs
from trainable.records.trial_state import TrialState, read_state

pytestmark = pytest.mark.integration

EPOCHS = 20
SMALL = ("--set", "width=2", "--set", "train_limit=320", "--epochs", str(EPOCHS))
GRID = """
name = "life"
seeds = [0]
[base]
dataset = "synthetic"
epochs = 5
test_limit = 50
noise_scale_every_epochs = 0
[[cells]]
batch_size = 16
learning_rate = 0.05
[[cells]]
batch_size = 32
learning_rate = 0.05
[[cells]]
batch_size = 16
learning_rate = 900.0
weight_decay = 10.0
"""


@dataclass
class Stage:
    """What one driver has printed, and the trials and epochs that the study had afterwards."""

    output: str
    trials: pd.DataFrame
    epochs: pd.DataFrame

    @cached_property
    def learning(self) -> pd.DataFrame:
        """The trials that can be trained, by id."""
        return self.trials[self.trials["config.learning_rate"] == 0.05].set_index("trial_id")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"), GRID)


def stage(workplace: Workplace, output: str) -> Stage:
    study = analysis.load_study(workplace.study("life").path)
    return Stage(output, study.trials, study.epochs)


@pytest.fixture(scope="module")
def terminated(workplace: Workplace) -> Stage:
    """The first driver, which gets SIGTERM in the third epoch of a trial."""
    with workplace.start("life", *SMALL, "--checkpoint-interval", "3600", "--wandb", "offline") as driver:
        driver.wait_for(f"epoch 3/{EPOCHS} ")
        libraries = [part.path for part in psutil.Process(driver.process.pid).memory_maps()]
        assert not [path for path in libraries if "libtorch" in path], (
            "a driver does without torch's seconds and 400 MB"
        )
        driver.process.send_signal(signal.SIGTERM)
        assert driver.wait(120) == 130, driver.output
        return stage(workplace, driver.output)


@pytest.fixture(scope="module")
def finished(workplace: Workplace, terminated: Stage) -> Stage:
    """The same command to the end; the worker of a trial is killed on the way."""
    with workplace.start("life", *SMALL, "--checkpoint-interval", "0") as driver:
        driver.wait_for(rf"batch 16  lr 0\.05 .*epoch \d+/{EPOCHS} ")
        rows = terminated.learning
        driver.worker_of(rows.index[rows["config.batch_size"] == 16][0]).kill()
        assert driver.wait() == 0, driver.output
        return stage(workplace, driver.output)


@pytest.fixture(scope="module")
def again(workplace: Workplace, finished: Stage) -> tuple[Callable[[], list[bytes]], list[bytes], Stage]:
    """The same command once more, where two files are missing: how to read them, what they held before, and the study."""
    files = [workplace.study("life").path / name for name in ("model.parquet", "samples.npz")]

    def read() -> list[bytes]:
        return [file.read_bytes() for file in files]

    before = read()
    for file in files:  # as where the process that counts was ended
        file.unlink()
    return read, before, stage(workplace, workplace.run("life", *SMALL))


@pytest.fixture(scope="module")
def extended(workplace: Workplace, again: object) -> Stage:
    """Another seed, by a user whose home folder cannot be written."""
    with workplace.start("life", *SMALL, "--seeds", "2", environment={"HOME": "/proc/no-home"}, report=True) as driver:
        assert driver.wait() == 0, driver.output
        return stage(workplace, driver.output)


def test_a_terminated_study_says_how_to_go_on(terminated: Stage) -> None:
    assert "this goes on:" in terminated.output
    assert "Traceback" not in terminated.output
    assert set(terminated.learning["status"]) == {"pending"}
    saved = terminated.learning["epochs_completed"].max()
    assert saved >= 3, "with no checkpoint due for an hour, the last epoch was still saved"


def test_runs_of_wandb_hold_what_was_trained_so_far(workplace: Workplace, terminated: Stage) -> None:
    runs = read_offline_runs(workplace.study("life").path)
    saved_epochs = terminated.learning["epochs_completed"]
    for trial, saved in saved_epochs[saved_epochs > 0].items():
        assert len(runs[str(trial)].series("test/acc", "epoch")) == saved
        assert runs[str(trial)].config["status"] == "pending"


def test_what_was_saved_is_not_trained_again(terminated: Stage, finished: Stage) -> None:
    saved = terminated.learning.set_index("config.batch_size")["epochs_completed"]
    for batch_size in (16, 32):
        first = re.search(rf"batch {batch_size}  lr 0\.05 .*epoch (\d+)/{EPOCHS} ", finished.output)
        assert first is not None
        assert int(first[1]) == saved[batch_size] + 1


def test_a_killed_worker_costs_at_most_what_its_checkpoint_missed(terminated: Stage, finished: Stage) -> None:
    assert "goes on after" in finished.output
    before, after = terminated.learning, finished.learning
    assert set(after["status"]) == {"completed"}
    assert dict(zip(after["config.batch_size"], after["failures"], strict=True)) == {16: 1, 32: 0}
    started = after["attempts"] - before["attempts"]
    assert dict(zip(after["config.batch_size"], started, strict=True)) == {16: 2, 32: 1}
    epochs = finished.epochs[finished.epochs["trial_id"].isin(after.index)]
    assert (epochs.groupby("trial_id")["epoch"].apply(tuple) == tuple(range(1, EPOCHS + 1))).all()


def test_a_study_ends_with_its_tables(workplace: Workplace, finished: Stage) -> None:
    assert "Synthetic data" in finished.output
    assert "final test accuracy" in finished.output
    assert "Traceback" not in finished.output
    folder = workplace.study("life")
    assert str(folder.path) in finished.output
    rows = finished.learning
    assert set(rows["config.batch_size"]) == {16, 32}
    first = finished.epochs[(finished.epochs["epoch"] <= 2) & finished.epochs["trial_id"].isin(rows.index)]
    assert len(first) == 4
    assert first["train_loss"].between(1.5, 4).all()


def test_a_study_is_as_private_as_its_user_wants_and_knows_no_secret(workplace: Workplace, finished: Stage) -> None:
    """The driver runs with the umask 077, and with a key of W&B in its environment."""
    written = [workplace.study("life").path, *workplace.study("life").path.rglob("*")]
    assert len(written) > 30
    assert [str(path) for path in written if path.stat().st_mode & 0o077] == []
    files = [path for path in written if path.is_file()]
    assert [path for path in files if PLANTED_SECRET.encode() in path.read_bytes()] == []


def test_a_diverged_trial_is_a_result(finished: Stage) -> None:
    assert sorted(finished.trials["status"]) == ["completed", "completed", "diverged"]
    assert "loss not finite" in str(finished.trials.set_index("status").loc["diverged", "reason"])


def test_the_same_command_again_trains_nothing_and_prints_the_tables(
    finished: Stage, again: tuple[Callable[[], list[bytes]], list[bytes], Stage]
) -> None:
    read, before, stage = again
    assert "nothing to run: 3 of 3 trials are done" in stage.output
    assert read() == before
    assert "final test accuracy" in stage.output
    assert stage.trials.equals(finished.trials)


def test_another_seed_runs_only_what_is_new(workplace: Workplace, again: object, extended: Stage) -> None:
    assert not (workplace.folder / "home/.ray").exists(), "no token is left in the home folder"
    new = extended.trials[extended.trials["seed"] == 1]
    assert sorted(new["status"]) == ["completed", "completed", "diverged"]
    assert (new["attempts"] == 1).all()
    info = analysis.load_study(workplace.study("life").path).info
    assert info.seeds == (0, 1)
    assert len(info.attempts) == 3, "where there was nothing to run there was no attempt"


def test_old_trials_stay_as_they_are_when_a_seed_is_added(finished: Stage, extended: Stage) -> None:
    old = extended.trials[extended.trials["seed"] == 0].set_index("trial_id")
    assert old.equals(finished.trials.set_index("trial_id").loc[old.index])


def test_the_comparison_holds_the_means_of_the_last_epochs(workplace: Workplace, extended: Stage) -> None:
    table = pd.read_csv(workplace.study("life").tables / "comparison.csv")
    last = extended.epochs[extended.epochs["epoch"] == EPOCHS]
    last = last.merge(extended.learning.reset_index()[["trial_id", "config.batch_size"]], on="trial_id")
    expected = last.groupby("config.batch_size")["test_accuracy"].mean()
    measured = table[table["learning_rate"] == 0.05].set_index("batch_size")["final_test_accuracy_mean"]
    assert list(measured.index) == [16, 32]
    assert measured.to_numpy() == pytest.approx(expected.loc[[16, 32]].to_numpy())


def test_trials_run_at_the_same_time_where_resources_allow(extended: Stage) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    rows = extended.learning[extended.learning["seed"] == 1].sort_values("started_at")
    first, second = rows.iloc[0], rows.iloc[1]
    assert second["started_at"] <= first["ended_at"]
    assert not rows["timing_exclusive"].any()


def test_nothing_of_ray_stands_between_user_and_table(extended: Stage) -> None:
    for noise in ("INFO", "WARNING", "╭", "Trial status", "tune.run", "raylet", "Logical resource"):
        assert noise not in extended.output


MIXED = """
name = "mixed"
[base]
dataset = "synthetic"
width = 2
train_limit = 320
test_limit = 50
noise_scale_every_epochs = 0
epochs = 2
weight_decay = 10.0
batch_size = 16
[grid]
learning_rate = [0.001, 900.0]
"""


@pytest.mark.faults
def test_a_failed_trial_does_not_end_the_study(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, MIXED)
    study = workplace.study("mixed")
    with workplace.start("mixed", "--seeds", "2", "--max-failures", "1") as driver:
        deadline = time.monotonic() + 60
        while not (
            blocked := [state for path in study.trials.glob("*") if (state := read_state(path)) and is_blocked(state)]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Ray needs seconds to start: by then the trial finds a folder where it must write a file, every time it tries.
        file = study.trial(blocked[0].trial_id) / "epochs.parquet"
        file.mkdir()
        assert driver.wait() == 3, driver.output
        output = driver.output
    rows = analysis.load_study(study.path).trials.set_index("trial_id")
    assert sorted(rows["status"]) == ["completed", "diverged", "diverged", "failed"]
    failed = rows.loc[blocked[0].trial_id]
    assert (failed["attempts"], failed["failures"]) == (2, 2)
    assert "epochs.parquet" in str(failed["reason"])
    assert "epochs.parquet" in output

    file.rmdir()
    assert re.search(
        "^failed: .*seed 1", workplace.run("mixed", "--seeds", "2", "--retry-failed", "no", expect=3), re.MULTILINE
    )
    workplace.run("mixed", "--seeds", "2")
    rows = analysis.load_study(study.path).trials.set_index("trial_id")
    assert rows.loc[blocked[0].trial_id, "status"] == "completed"


def is_blocked(state: TrialState) -> bool:
    """The trial that is to fail."""
    return state.config.seed == 1 and state.config.learning_rate == 0.001
