"""`python -m study.run` with a real Ray: run, run again, extend, interrupt, kill, diverge, fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

import analysis
from tests.support.faults import command_line
from trainable.trial_state import TrialState, read_state

pytestmark = pytest.mark.integration

SMALL = (
    "--grid", "small.toml", "--set", "dataset=synthetic", "--set", "width=2", "--set", "train_limit=320",
    "--set", "test_limit=50", "--set", "noise_scale_every_epochs=0",
)  # fmt: skip
GRID = """
name = "small"
seeds = [0]
[base]
epochs = 2
learning_rate = 0.05
[grid]
batch_size = [16, 32]
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "small.toml").write_text(GRID)
    (folder / "home").mkdir()
    return folder


def start(workplace: Path, *arguments: str, home: Path | None = None) -> subprocess.Popen[str]:
    home = home or workplace / "home"
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "study.run", *arguments],
        cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(workplace: Path, *arguments: str, expect: int = 0, home: Path | None = None) -> str:
    process = start(workplace, *arguments, home=home)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == expect, output
    assert "Traceback" not in output
    return output


def trials(workplace: Path, name: str) -> pd.DataFrame:
    return analysis.load_study(workplace / "results" / name).trials


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """Read the driver's output until a line holds `text`."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


@pytest.fixture(scope="module")
def finished(workplace: Path) -> str:
    return run(workplace, *SMALL, "--name", "small")


def test_a_study_ends_with_its_tables(workplace: Path, finished: str) -> None:
    rows = trials(workplace, "small")
    assert list(rows["status"]) == ["completed", "completed"]
    assert set(rows["config.batch_size"]) == {16, 32}
    epochs = analysis.load_study(workplace / "results/small").epochs
    assert len(epochs) == 4
    assert epochs["train_loss"].between(1.5, 4).all()
    assert "Synthetic data" in finished
    assert "final test accuracy" in finished
    assert str(workplace / "results/small") in finished
    comparison = pd.read_csv(workplace / "results/small/report/tables/comparison.csv")
    assert list(comparison["batch_size"]) == [16, 32]
    last = epochs[epochs["epoch"] == 2].merge(rows[["trial_id", "config.batch_size"]], on="trial_id")
    expected = last.sort_values("config.batch_size")["test_accuracy"].to_numpy()
    assert comparison["final_test_accuracy_mean"].to_numpy() == pytest.approx(expected)


def test_trials_run_at_the_same_time_where_resources_allow(workplace: Path, finished: str) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    rows = trials(workplace, "small").sort_values("started_at")
    first, second = rows.iloc[0], rows.iloc[1]
    assert second["started_at"] <= first["ended_at"]
    assert not rows["timing_exclusive"].any()


def test_nothing_of_ray_stands_between_user_and_table(finished: str) -> None:
    for noise in ("INFO", "WARNING", "╭", "Trial status", "tune.run", "raylet", "Logical resource"):
        assert noise not in finished


def test_the_same_command_again_trains_nothing_and_prints_the_tables(workplace: Path, finished: str) -> None:
    before = trials(workplace, "small")
    folder = workplace / "results/small"
    model, samples = ((folder / name).read_bytes() for name in ("model.parquet", "samples.npz"))
    for name in ("model.parquet", "samples.npz"):  # as where the process that counts was ended
        (folder / name).unlink()
    output = run(workplace, *SMALL, "--name", "small")
    assert "nothing to run: 2 of 2 trials are done" in output
    assert ((folder / "model.parquet").read_bytes(), (folder / "samples.npz").read_bytes()) == (model, samples)
    assert "final test accuracy" in output
    assert trials(workplace, "small").equals(before)


def test_more_seeds_run_only_what_is_new(workplace: Path, finished: str) -> None:
    before = trials(workplace, "small").set_index("trial_id")["attempts"]
    run(workplace, *SMALL, "--name", "small", "--seeds", "2", home=Path("/proc/no-home"))  # one that cannot be written
    assert not (workplace / "home/.ray").exists(), "no token is left in the home folder"
    rows = trials(workplace, "small").set_index("trial_id")
    assert len(rows) == 4
    assert (rows["attempts"] == 1).all()
    assert set(before.index) < set(rows.index)
    info = analysis.load_study(workplace / "results/small").info
    assert info.seeds == (0, 1)
    assert len(info.attempts) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_says_how_to_go_on_and_does(workplace: Path, number: signal.Signals) -> None:
    command = (
        *SMALL,
        "--name",
        "interrupted",
        "--epochs",
        "40",
        "--set",
        "train_limit=960",
        "--checkpoint-interval",
        "3600",
    )
    before = epochs_completed(workplace)  # the second time it goes on where the first time ended
    process = start(workplace, *command)
    first = max(before.values(), default=0) + 1
    wait_for(process, f"epoch {first + 2}/40")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "this goes on:" in output
    after = epochs_completed(workplace)
    assert max(after.values()) >= first + 2, "with no checkpoint due for an hour, the last epoch was still saved"
    assert all(after[trial] >= count for trial, count in before.items())
    assert set(trials(workplace, "interrupted")["status"]) == {"pending"}


def epochs_completed(workplace: Path) -> dict[str, int]:
    """Epochs by trial of the interrupted study; none before it was started."""
    if not (workplace / "results/interrupted").exists():
        return {}
    return dict(trials(workplace, "interrupted").set_index("trial_id")["epochs_completed"])


def test_a_killed_worker_costs_at_most_what_its_checkpoint_missed(workplace: Path) -> None:
    process = start(
        workplace, *SMALL, "--name", "killed", "--epochs", "12", "--checkpoint-interval", "0", "--max-concurrent", "1"
    )
    wait_for(process, "epoch 3/12")
    workers = [
        child for child in psutil.Process(process.pid).children(recursive=True)
        if "ray::ImplicitFunc" in " ".join(command_line(child))
    ]  # fmt: skip
    assert len(workers) == 1, "Ray names the process of a Tune function so"
    workers[0].kill()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "goes on after" in output
    rows = trials(workplace, "killed")
    assert set(rows["status"]) == {"completed"}
    assert sorted(rows["attempts"]) == [1, 2]
    assert sorted(rows["failures"]) == [0, 1]
    epochs = analysis.load_study(workplace / "results/killed").epochs
    assert (epochs.groupby("trial_id")["epoch"].apply(list).map(tuple) == tuple(range(1, 13))).all()


MIXED = ("--grid", "mixed.toml", *SMALL[2:], "--name", "mixed")


@pytest.fixture(scope="module")
def diverged(workplace: Path) -> str:
    (workplace / "mixed.toml").write_text(
        'name = "mixed"\n[base]\nepochs = 2\nweight_decay = 10.0\nbatch_size = 16\n[grid]\nlearning_rate = [0.001, 900.0]\n'
    )
    return run(workplace, *MIXED)


def test_a_diverged_trial_is_a_result(workplace: Path, diverged: str) -> None:
    assert "loss not finite" in diverged
    assert sorted(trials(workplace, "mixed")["status"]) == ["completed", "diverged"]
    assert "loss not finite" in str(trials(workplace, "mixed").set_index("status").loc["diverged", "reason"])


@pytest.mark.faults
def test_a_failed_trial_does_not_end_the_study(workplace: Path, diverged: str) -> None:
    process = start(workplace, *MIXED, "--seeds", "2", "--max-failures", "1")
    folder = workplace / "results/mixed/trials"
    deadline = time.monotonic() + 60
    while not (blocked := [state for path in folder.iterdir() if (state := read_state(path)) and is_blocked(state)]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Ray needs seconds to start: by then the trial finds a folder where it must write a file, every time it tries.
    (folder / blocked[0].trial_id / "epochs.parquet").mkdir()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 3, output
    rows = trials(workplace, "mixed").set_index("trial_id")
    assert sorted(rows["status"]) == ["completed", "diverged", "diverged", "failed"]
    failed = rows.loc[blocked[0].trial_id]
    assert (failed["attempts"], failed["failures"]) == (2, 2)
    assert "epochs.parquet" in str(failed["reason"])
    assert "epochs.parquet" in output

    (folder / blocked[0].trial_id / "epochs.parquet").rmdir()
    assert "failed: seed 1" in run(workplace, *MIXED, "--seeds", "2", "--retry-failed", "no", expect=3)
    run(workplace, *MIXED, "--seeds", "2")
    assert trials(workplace, "mixed").set_index("trial_id").loc[blocked[0].trial_id, "status"] == "completed"


def is_blocked(state: TrialState) -> bool:
    """The trial that is to fail."""
    return state.config.seed == 1 and state.config.learning_rate == 0.001
