"""The W&B mirror with the real wandb: offline files read back, the online path against a server on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

import analysis
from analysis.figures import trial_figures
from analysis.records.phases import picture_epochs
from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.ledger import list_states
from study.tracking import mirror as mirror_module
from study.tracking.connection import Connection
from study.tracking.mirror import Mirror
from study.tracking.run_writer import RunWriter
from tests.support.faults import command_line, wait_until
from tests.support.trained_study import train_study
from tests.support.wandb_files import WrittenRun, read_offline_runs
from tests.support.wandb_server import KEY, WandbServer
from trainable.records.trial_state import TrialState, write_state

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
FINAL = ("final/best_test_acc", "final/final_train_acc", "final/final_test_acc")
STEP_SERIES = {
    "train/batch_loss": ("batch_loss", 1), "train/batch_acc": ("running_accuracy", 100),
    "train/learning_rate": ("learning_rate", 1), "train/avg_gradient_norm": ("gradient_mean_abs", 1),
    "train/max_gradient_norm": ("gradient_max_abs", 1), "instruments/gradient_l2": ("gradient_l2", 1),
    "instruments/gradient_alignment": ("gradient_alignment", 1),
}  # fmt: skip
VALIDATED = ("val/loss", "val/acc")  # have an axis in every run, and values where images are held out
INSTRUMENTS = (
    "noise_scale", "gradient_l2_squared_unbiased", "gradient_covariance_trace", "effective_learning_rate",
    "batch_sharpness", "batch_sharpness_se", "batch_sharpness_batches", "hessian_trace", "hessian_trace_se",
    "hessian_trace_probes", "hessian_trace_images", "top_eigenvalue", "top_eigenvalue_residual",
    "top_eigenvalue_iterations", "top_eigenvalue_images", "training_set_loss",
)  # fmt: skip
EPOCH_SERIES = {
    "train/epoch_loss": ("train_loss", 1), "train/epoch_acc": ("train_accuracy", 100), "test/loss": ("test_loss", 1),
    "test/acc": ("test_accuracy", 100), "learning_rate": ("learning_rate", 1),
    **{f"instruments/{name}": (name, 1) for name in INSTRUMENTS},
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and nothing of wandb in the environment."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return home


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return train_study(tmp_path_factory.mktemp("trained") / "study")


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


@pytest.fixture
def online(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


def sync(folder: StudyFolder, *arguments: str, expect: int = 0, url: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "study.tracking", "sync", url or str(folder.path), *arguments],
        capture_output=True, text=True, timeout=120, cwd=folder.path,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == expect, output
    assert "Traceback" not in output
    return output


def check_history(rows: list[dict[str, Any]], records: StudyFolder, trial_id: str) -> None:
    """Every series of a run is that of the records, each value once and at its own step; and there is nothing else."""
    study = analysis.load_study(records.path)
    expected = {}
    for frame, series, axis in ((study.steps, STEP_SERIES, "step"), (study.epochs, EPOCH_SERIES, "epoch")):
        own = frame[frame["trial_id"] == trial_id]
        for name, (column, scale) in series.items():
            measured = own[own[column].notna()]
            expected[name] = (axis, list(measured[axis]), list(measured[column] * scale))
    for name, (axis, places, values) in expected.items():
        found = [(row[axis], row[name]) for row in rows if name in row]
        assert [place for place, _ in found] == places, name
        assert [value for _, value in found] == pytest.approx(values, rel=1e-12), name
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    kinds = {name for row in rows for name in row if not name.startswith("_")}
    assert kinds <= {"step", "epoch", "train/step", *expected, *FINAL, *trial_figures()} | {
        name for name in kinds if "/epoch_" in name
    }


def pictures_of(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the pictures in a history, each as often as it is there."""
    return sorted(name for row in rows for name in row if name.partition("/")[0] in trial_figures())


def expected_pictures(state: TrialState) -> list[str]:
    drawn = picture_epochs(state.config.epochs) if state.config.instrument_every_steps else []
    return sorted(f"{kind}/epoch_{epoch}" for kind in trial_figures() for epoch in drawn)


def trial_runs(runs: dict[str, WrittenRun]) -> dict[str, WrittenRun]:
    return {name: run for name, run in runs.items() if run.job_type == "trial"}


def check_offline_trials(runs: dict[str, WrittenRun], folder: StudyFolder) -> None:
    """One complete run for every trial of the study."""
    states = {state.trial_id: state for state in list_states(folder)}
    assert set(trial_runs(runs)) == set(states)
    epochs = analysis.load_study(folder.path).epochs
    for trial_id, run in trial_runs(runs).items():
        check_history(run.history, folder, trial_id)
        assert pictures_of(run.history) == expected_pictures(states[trial_id])
        own = epochs[epochs["trial_id"] == trial_id]
        final = {name: value for row in run.history for name, value in row.items() if name in FINAL}
        assert final == pytest.approx({
            "final/best_test_acc": 100 * own["test_accuracy"].max(),
            "final/final_train_acc": 100 * own["train_accuracy"].iloc[-1],
            "final/final_test_acc": 100 * own["test_accuracy"].iloc[-1],
        })  # fmt: skip
        assert run.axes == dict.fromkeys(STEP_SERIES, "step") | dict.fromkeys((*EPOCH_SERIES, *VALIDATED), "epoch")
        assert (run.exit_code, run.config["status"]) == (0, "completed")
        assert run.config["mflops"] == pytest.approx(run.config["total_flops"] / 1e6)


def check_summary_run(runs: dict[str, WrittenRun], folder: StudyFolder) -> None:
    """Its comparison table holds the report's numbers in percent; the other tables and the figures are there."""
    (summary,) = (run for run in runs.values() if run.job_type == "summary")
    (row,) = summary.history
    tables = {"comparison", "gradient_ranges", "gradient_health", "weight_update_ranks", "flops"}
    assert {f"tables/{name}" for name in tables} <= set(row)
    assert {"figures/training_curves", "figures/learning_rate", "figures/update_ratio"} <= set(row)
    (file,) = folder.path.glob("wandb/*summary*/files/media/table/tables/comparison_*.json")
    table = pd.read_json(file, orient="split")
    expected = pd.read_csv(folder.tables / "comparison.csv")
    assert list(table["final test accuracy, %"]) == pytest.approx(list(100 * expected["final_test_accuracy_mean"]))


def save(folder: StudyFolder, state: TrialState, epoch: int) -> None:
    """Have the trial seem to train still, with its epochs up to this one saved."""
    write_state(folder.trial(state.trial_id), replace(state, status="running", epochs_completed=epoch))


@pytest.fixture
def begun(trained: StudyFolder, tmp_path: Path) -> tuple[StudyFolder, TrialState]:
    """A study with a trial that seems to have just begun, and the state it will have at its end."""
    shutil.copytree(trained.path, tmp_path / "study", ignore=shutil.ignore_patterns("wandb"))
    folder = StudyFolder(tmp_path / "study")
    state = next(state for state in list_states(folder) if state.config.instrument_every_steps)
    save(folder, state, 0)
    return folder, state


def test_a_run_that_follows_its_trial_gets_every_row_once_and_in_order(begun: tuple[StudyFolder, TrialState]) -> None:
    folder, state = begun
    connection = Connection("offline", "mine", "trained", folder.path)
    writer = RunWriter(folder, connection)
    opened = []
    for saved in (0, 1, 0, 1):  # the second time the trial goes on from an older checkpoint
        save(folder, state, saved)
        assert not writer.update(state.trial_id)
        opened.append(writer.open_trials)
    assert opened == [(), *[(state.trial_id,)] * 3], "a run is opened with the first epoch"
    write_state(folder.trial(state.trial_id), state)
    assert writer.update(state.trial_id)
    assert writer.open_trials == ()
    assert not writer.update(state.trial_id), "nothing is new"
    connection.close()
    written = read_offline_runs(folder.path)[state.trial_id]
    check_history(written.history, folder, state.trial_id)
    assert pictures_of(written.history) == expected_pictures(state)


def test_a_trial_with_damaged_records_does_not_keep_others_from_their_runs(
    begun: tuple[StudyFolder, TrialState],
) -> None:
    folder, state = begun
    write_state(folder.trial(state.trial_id), state)
    damaged = folder.trial(state.trial_id) / "steps.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (other,) = (found.trial_id for found in list_states(folder) if found != state)
    connection = Connection("offline", "mine", "trained", folder.path)
    writer = RunWriter(folder, connection)
    with pytest.raises(StudyFolderError, match=r"steps\.parquet"):
        writer.finish(state.trial_id)
    writer.finish(other)
    connection.close()
    check_history(read_offline_runs(folder.path)[other].history, folder, other)


@pytest.mark.faults
def test_a_run_that_was_begun_is_made_whole_from_the_records_and_is_there_once(
    begun: tuple[StudyFolder, TrialState],
) -> None:
    folder, state = begun
    connection = Connection("offline", "mine", "trained", folder.path)
    first = RunWriter(folder, connection)
    save(folder, state, 1)
    first.update(state.trial_id)
    first.finish(state.trial_id)
    connection.close()
    begun_run = read_offline_runs(folder.path)[state.trial_id]
    assert begun_run.exit_code == 255
    assert begun_run.config["status"] == "running"
    assert [epoch for epoch, _ in begun_run.series("test/acc", "epoch")] == [1], "of two in the records, one was saved"
    write_state(folder.trial(state.trial_id), state)
    sync(folder, "--offline", "--project", "mine")
    runs = read_offline_runs(folder.path)
    check_offline_trials(runs, folder)
    check_summary_run(runs, folder)
    assert {(run.project, run.group) for run in runs.values()} == {("mine", "trained")}


def test_a_study_at_a_url_gets_what_a_server_lacks_in_the_project_that_it_had(
    trained: StudyFolder, online: WandbServer, tmp_path: Path
) -> None:
    stored = StudyFolder(tmp_path / "store/trained")
    shutil.copytree(trained.path, stored.path, ignore=shutil.ignore_patterns("wandb*", "report"))
    url = stored.path.as_uri()
    assert "summary run  written" in sync(trained, "--project", "mine", url=url)
    assert (stored.report / "index.html").is_file(), "what sync wrote is at the URL"
    complete = {name: list(run.history) for name, run in online.runs.items()}
    states = list_states(stored)
    assert set(complete) > {state.trial_id for state in states}
    measured = online.runs[next(state.trial_id for state in states if state.config.instrument_every_steps)]
    measured.history, measured.summary = measured.history[:5], "{}"  # a driver was killed in the middle of the run
    again = sync(trained, url=url)
    assert "up to date" in again
    assert "mine" in again.splitlines()[-1], "the project was kept there"
    for state in states:
        run = online.runs[state.trial_id]
        assert run.num_overwritten == 0
        check_history(run.rows, stored, state.trial_id)
        assert pictures_of(run.rows) == expected_pictures(state)
        images = {name.removeprefix("media/images/") for name in run.files if name.endswith(".png")}
        assert sorted({name.rsplit("_", 2)[0] for name in images}) == expected_pictures(state)
        assert (run.group, run.settings["status"], run.exit_code) == ("trained", "completed", 0)
        if run is not measured:
            assert run.history == complete[state.trial_id], "it is not sent again"
    assert "--offline writes run folders into a study folder" in sync(trained, "--offline", url=url, expect=2)
    assert not list((stored.path / "drivers").glob("*")), "it is not locked any more"


def test_sync_leaves_nothing_at_a_url_without_a_study(trained: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert "no study there" in sync(trained, url=f"file://{tmp_path}/store/none", expect=2)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("trouble", ["wrong key", "no key", "nobody there"])
def test_trouble_with_wandb_is_one_warning_and_never_an_error(
    trained: StudyFolder, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    trouble: str,
) -> None:  # fmt: skip
    environment = server.environment()
    if trouble == "wrong key":
        server.refuse_with = 401
    elif trouble == "no key":
        del environment["WANDB_API_KEY"]
    elif trouble == "nobody there":
        server.__exit__()
        environment["WANDB_INIT_TIMEOUT"] = "3"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Mirror(trained, "online") as mirror:
        mirror.start()
        for state in list_states(trained):
            mirror.follow(state.trial_id)
        mirror.finish()
    said = capfd.readouterr()
    assert said.err.count("warning: W&B") == 1, said.err
    assert f"study sync {trained.path}" in said.err
    assert KEY not in said.err + said.out
    assert "Traceback" not in said.err


def test_an_interruption_does_not_wait_for_a_server_that_went_silent(
    begun: tuple[StudyFolder, TrialState], online: WandbServer, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(mirror_module, "INTERRUPT_LIMIT_S", 2.0)
    folder, state = begun
    save(folder, state, 1)
    with Mirror(folder, "online") as mirror:
        mirror.start()
        mirror.follow(state.trial_id)
        wait_until(lambda: state.trial_id in online.runs)
        online.silent = True
        write_state(folder.trial(state.trial_id), state)
        process = mirror._process
        assert process is not None
        own = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert any("wandb-core" in part.name() for part in own)
    _, alive = psutil.wait_procs(own, timeout=5)
    assert not alive
    assert capfd.readouterr().err.count("warning: W&B") == 1


def test_a_driver_that_is_killed_leaves_no_process_behind(begun: tuple[StudyFolder, TrialState]) -> None:
    code = (
        "import os, signal, sys, time; from pathlib import Path; from analysis.records.study_folder import StudyFolder;"
        "from study.tracking.mirror import Mirror; mirror = Mirror(StudyFolder(Path(sys.argv[1])), 'offline');"
        "mirror.start(); mirror.follow(sys.argv[2]); print(mirror._process.pid, flush=True); sys.stdin.read()"
    )
    folder, state = begun
    save(folder, state, state.config.epochs)
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path), state.trial_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    writer = psutil.Process(int(driver.stdout.readline()))
    wait_until(lambda: bool(writer.children()))
    processes = [writer, *writer.children()]
    driver.kill()
    driver.communicate(timeout=10)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive
    check_history(read_offline_runs(folder.path)[state.trial_id].history, folder, state.trial_id)


GRID = """
name = "mirrored"
[base]
dataset = "synthetic"
epochs = 11
width = 2
train_limit = 320
test_limit = 50
learning_rate = 0.05
noise_scale_every_epochs = 0
log_every_steps = 4
instrument_every_steps = 20
[grid]
batch_size = [16]
"""


@pytest.mark.faults
def test_a_study_that_was_interrupted_has_whole_runs_and_no_key_in_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (tmp_path / "mirrored.toml").write_text(GRID)
    command = [
        sys.executable, "-m", "study.run", "--grid", "mirrored.toml", "--wandb", "offline", "--checkpoint-interval", "3600",
        "--wandb-project", "mine",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        seen = ""
        while "epoch 1/11" not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        driver = psutil.Process(process.pid)
        children = driver.children(recursive=True)
        assert sum("study.tracking.writer" in command_line(child) for child in children) == 1
        process.send_signal(signal.SIGINT)
        seen += process.communicate(timeout=120)[0]
        assert process.returncode == 130, seen
        assert "this goes on:" in seen
    finally:
        process.terminate()
        process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    folder = StudyFolder(tmp_path / "results/mirrored")
    (state,) = list_states(folder)
    assert 0 < state.epochs_completed < 11, "with no checkpoint due for an hour, the last epoch was still saved"
    begun = read_offline_runs(folder.path)[state.trial_id]
    assert len(begun.series("test/acc", "epoch")) == state.epochs_completed
    assert begun.config["status"] == "pending"

    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        driver = psutil.Process(process.pid)
        wait_until(
            lambda: any("wandb-core" in " ".join(command_line(child)) for child in driver.children(recursive=True)),
            timeout_s=120,
        )
        children = driver.children(recursive=True)
        assert sum("study.tracking.writer" in command_line(child) for child in children) == 1
        assert sum("wandb-core" in " ".join(command_line(child)) for child in children) == 1
        seen += process.communicate(timeout=400)[0]
    finally:
        process.terminate()
        process.wait(60)
    assert process.returncode == 0, seen
    runs = read_offline_runs(folder.path)
    check_offline_trials(runs, folder)
    check_summary_run(runs, folder)
    assert "warning" not in seen
    assert KEY not in seen
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".pkl" for path in files), "Tune's pickles are among them"
    assert [str(path) for path in files if KEY.encode() in path.read_bytes()] == []


def test_sync_refuses_what_is_no_study(tmp_path: Path) -> None:
    assert "not a study folder" in sync(StudyFolder(tmp_path), expect=2)
