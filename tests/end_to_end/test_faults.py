"""Studies into which the real faults are put: after each the same command completes them, and nothing tells them apart
from a study that was left alone: records, tables and weights are the same bit for bit, times aside.

Few studies carry many faults, because Ray takes seconds to start. With FAULT_TABLE=docs/faults.md the table
of that page is written.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from analysis.records.study_folder import StudyFolder
from tests.support.fault_table import FaultTable, written_table
from tests.support.faults import (
    PLANTED_SECRET,
    REPOSITORY,
    Driver,
    Workplace,
    compare_studies,
    count_epochs,
    end_group,
    fill_disk,
    foreign_listeners,
    repeated_epochs,
    shared_memory,
    small_disk,
    states,
    truncate,
)
from trainable.files import write_atomically
from trainable.records.checkpoint import list_checkpoints

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(1500)]

# Two cells that learn and one that diverges; two seeds. One core trains an epoch in a few tenths of a second.
GRID = """
name = "faults"
seeds = [0, 1]
[base]
dataset = "synthetic"
epochs = 12
width = 2
train_limit = 320
test_limit = 50
noise_scale_every_epochs = 0
instrument_every_steps = 5
log_every_steps = 2
[[cells]]
batch_size = 16
learning_rate = 0.05
[[cells]]
batch_size = 32
learning_rate = 0.05
[[cells]]
batch_size = 32
learning_rate = 900.0
weight_decay = 10.0
"""
OFTEN = ("--checkpoint-interval", "0.3")
# Started by every Python process of a study: the time of day is shifted by the seconds in a file, at any moment.
MOVABLE_CLOCK = """
import os, pathlib, time
real_time, offset = time.time, pathlib.Path(os.environ["CLOCK_OFFSET"])
time.time = lambda: real_time() + float(offset.read_text())
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.fixture(scope="module")
def table() -> Iterator[FaultTable]:
    with written_table("fault table") as rows:
        yield rows


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("faults"), GRID)


@pytest.fixture(scope="module")
def undisturbed(workplace: Workplace) -> Workplace:
    """The workplace with the study `undisturbed` in it, run at once and left alone."""
    started = time.monotonic()
    workplace.run("undisturbed")
    workplace.undisturbed_s = time.monotonic() - started
    statuses = sorted(state.status for state in states(workplace.study("undisturbed")).values())
    assert statuses == ["completed"] * 4 + ["diverged"] * 2
    return workplace


def trial_of(workplace: Workplace, batch_size: int, learning_rate: float, seed: int) -> str:
    """The id of a trial: the same in every study of this grid."""
    wanted = (batch_size, learning_rate, seed)
    found = [
        name for name, state in states(workplace.study("undisturbed")).items()
        if (state.config.batch_size, state.config.learning_rate, state.config.seed) == wanted
    ]  # fmt: skip
    return found[0]


def line_of(batch_size: int, seed: int, epoch: int) -> str:
    """Pattern of the line that a driver prints for an epoch of a trial that learns."""
    return rf"batch {batch_size}  lr 0\.05 .*seed {seed}  epoch {epoch}/"


def test_worker_faults_cost_an_attempt_each_and_damaged_files_are_rebuilt(
    undisturbed: Workplace, table: FaultTable
) -> None:
    """One driver, another fault for each trial; then damage to every kind of file, and the command again."""
    first, second, third, fourth = (trial_of(undisturbed, b, 0.05, seed) for seed in (0, 1) for b in (16, 32))
    always = trial_of(undisturbed, 32, 900.0, 1)
    study = undisturbed.study("workers")
    timeout_s = round(
        max(15, undisturbed.undisturbed_s / 2)
    )  # a worker needs seconds to import torch, more on a busy machine
    for name in (fourth, always):  # a folder where these trials must write a file: the write raises
        (study.trial(name) / "epochs.parquet").mkdir(parents=True)
    arguments = (*OFTEN, "--max-failures", "2", "--trial-timeout", str(timeout_s))
    with undisturbed.start("workers", *arguments) as driver:
        driver.wait_for(line_of(16, 0, 3))
        driver.worker_of(first).kill()
        driver.wait_for(line_of(32, 0, 3))
        frozen_at = time.monotonic()
        driver.worker_of(second).suspend()
        driver.wait_for(line_of(16, 1, 3))
        group = limit_memory(driver.worker_of(third))
        driver.wait_for(r"batch 32  lr 0\.05 .*seed 1  waiting: goes on after")
        (study.trial(fourth) / "epochs.parquet").rmdir()
        driver.wait_for("no report within")
        hang_s = time.monotonic() - frozen_at
        status, output = driver.wait(), driver.output
        assert status == 3, output
        assert driver.leftovers() == []
    assert "Traceback" not in output
    found = states(study)
    assert {name for name, state in found.items() if state.status == "failed"} == {always}
    if group is not None:
        group.rmdir()
    hit = [first, second, *([third] if group else []), fourth]
    assert all(found[name].failures for name in hit)
    assert len(found[always].failures) == 3
    assert f"no report within {timeout_s} s" in found[second].failures[0]
    assert "epochs.parquet" in found[always].failures[0]

    damaged = damage_files(study, rebuilt_state=first, rebuilt_records=second, missing_records=third)
    (study.trial(always) / "epochs.parquet").rmdir()
    again = undisturbed.run("workers", *arguments)
    assert "4 trials done" in again or "5 trials done" in again
    for file in damaged:
        assert file.name in again, f"the repair of {file} was not said"
    differences = compare_studies(undisturbed.study("undisturbed"), study)
    assert differences == []
    kept = {name: state.attempts for name, state in found.items() if name not in (first, always)}
    assert {name: state.attempts for name, state in states(study).items() if name in kept} == kept, "no trial ran twice"

    counts = count_epochs(output)
    for fault, name, batch, seed in (
        ("SIGKILL of a trial's worker", first, 16, 0),
        (f"worker frozen (SIGSTOP), --trial-timeout {timeout_s}", second, 32, 0),
        ("a trial runs out of memory (memory limit of its control group)", third, 16, 1),
        ("trial raises once", fourth, 32, 1),
    ):
        if name not in hit:
            continue
        repeated = sum(
            n - 1 for (label, _), n in counts.items() if re.search(rf"batch {batch}  lr 0\.05 .*seed {seed}$", label)
        )
        reason = re.split(r"\. |: '", found[name].failures[0])[0]
        table.add(fault, f"goes on in a new worker; reason kept: {reason}", repeated, differences)
    assert hang_s < timeout_s + 60
    table.add("trial raises always", "failed after 3 attempts, exit status 3; retried by the next run", 0, differences)
    table.add("loss becomes NaN", "trial is recorded as diverged, in the undisturbed study too", 0, differences)
    for kind in ("trial.json truncated", "a records file truncated", "a records file removed", "study.json truncated"):
        table.add(
            kind,
            "rebuilt at the next start, and said",
            0,
            differences,
        )


def limit_memory(worker: psutil.Process) -> Path | None:
    """Let the kernel end it for want of memory at its next new page; None where no control group can be made here."""
    version_1 = Path("/sys/fs/cgroup/memory")
    group = (version_1 if version_1.is_dir() else version_1.parent) / f"faults-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if version_1.is_dir() else "memory.max")).write_text("300000")
        (group / "cgroup.procs").write_text(str(worker.pid))
    except OSError:
        return None
    return group


def damage_files(study: StudyFolder, *, rebuilt_state: str, rebuilt_records: str, missing_records: str) -> list[Path]:
    """Truncate or remove one file of each kind; returns them."""
    state = study.trial(rebuilt_state) / "trial.json"
    records = study.trial(rebuilt_records) / "epochs.parquet"
    missing = study.trial(missing_records) / "layers.parquet"
    for path in (state, records, study.study_json, study.samples, study.records("model")):
        truncate(path)
    truncate(study.records("steps"))  # written again from the trials by every driver, so there is nothing to say
    missing.unlink()
    return [state, records, missing, study.study_json, study.samples, study.records("model")]


def test_driver_faults_lose_nothing_that_was_saved(undisturbed: Workplace, table: FaultTable) -> None:
    """One study whose driver is killed, terminated, interrupted twice and lives through a change of the clock."""
    study = undisturbed.study("drivers")
    outputs: list[str] = []
    moments = random.Random(os.urandom(8))
    memory = shared_memory()

    with undisturbed.start("drivers", *OFTEN) as driver:
        driver.wait_for(r"epoch 4/12")
        time.sleep(moments.uniform(0, 2))
        driver.descendants()
        driver.process.kill()
        driver.wait()
        outputs.append(driver.output)
        assert driver.leftovers() == [], "workers and Ray end when their driver is killed"
        assert shared_memory() <= memory
    newest = newest_checkpoint(study.trials)
    truncate(newest)

    with undisturbed.start("drivers", *OFTEN) as driver:
        driver.wait_for(r"epoch \d+/12")
        refused = undisturbed.run("drivers", expect=2)
        assert f"process {driver.process.pid}, since 20" in refused
        driver.process.send_signal(signal.SIGTERM)
        assert driver.wait(240) == 130, driver.output
        assert driver.leftovers() == []
        outputs.append(driver.output)
    table.add("SIGKILL of the driver", "Ray and all workers end; the next run takes over the lock and goes on",
              repeated_epochs(outputs), None)  # fmt: skip
    notes = [note for state in states(study).values() for note in state.notes]
    assert any(newest.name in note and "damaged" in note for note in notes), notes
    table.add("newest checkpoint truncated", "the one before is used; noted and printed", "in the line above", None)
    table.add("second driver on the same study", "refused with host, process id and start of the first", 0, None)
    assert "this goes on:" in outputs[-1]

    with undisturbed.start("drivers", *OFTEN) as driver:
        driver.wait_for(r"epoch \d+/12")
        time.sleep(moments.uniform(0, 1))
        end_group(driver, signal.SIGINT)
        time.sleep(0.3)
        end_group(driver, signal.SIGINT)
        assert driver.wait(240) == 130, driver.output
        assert driver.leftovers() == []
        table.add("SIGTERM of the driver", "trials save their last epoch; exit status 130",
                  repeated_epochs([*outputs, driver.output]) - repeated_epochs(outputs), None)  # fmt: skip
        outputs.append(driver.output)

    environment, offset = movable_clock(undisturbed.folder)
    with undisturbed.start("drivers", *OFTEN, environment=environment) as driver:
        driver.wait_for(r"epoch \d+/12")
        write_atomically(offset, b"-259200")
        status = driver.wait()
        assert status == 0, driver.output
        found = repeated_epochs([*outputs, driver.output]) - repeated_epochs(outputs)
        table.add("SIGINT twice (Ctrl-C to the whole process group)", "ends at once; exit status 130", found, None)
    assert shared_memory() <= memory
    differences = compare_studies(undisturbed.study("undisturbed"), study)
    assert differences == []
    assert all(state.failures == () for state in states(study).values()), "no interruption counts as a failure"
    table.add("time of day set back three days while trials run", "nothing: all waiting is by the monotonic clock", 0,
              differences)  # fmt: skip
    assert_secret_is_nowhere(undisturbed, outputs)


def newest_checkpoint(trials: Path) -> Path:
    """The checkpoint written last of a trial that has an older one too."""
    found = [path for folder in trials.iterdir() if len(paths := list_checkpoints(folder)) > 1 for path in paths[:1]]
    unfinished = [path for path in found if json.loads((path.parent / "trial.json").read_text())["status"] == "running"]
    assert unfinished, "no trial had two checkpoints yet"
    return max(unfinished, key=lambda path: path.stat().st_mtime_ns)


def movable_clock(folder: Path) -> tuple[dict[str, str], Path]:
    """An environment in which the time of day of all Python processes is shifted by the seconds in the returned file."""
    (folder / "clock").mkdir()
    (folder / "clock" / "sitecustomize.py").write_text(MOVABLE_CLOCK)
    offset = folder / "clock" / "offset"
    offset.write_text("0")
    return {"CLOCK_OFFSET": str(offset), "PYTHONPATH": f"{folder / 'clock'}:{REPOSITORY}"}, offset


def assert_secret_is_nowhere(workplace: Workplace, outputs: list[str]) -> None:
    """The key that every driver had in its environment is in no file of any study and in no output."""
    searched = [path for path in (workplace.folder / workplace.results).rglob("*") if path.is_file()]
    assert any("ray" in path.parts for path in searched), "Tune's own files were searched too"
    assert [path for path in searched if PLANTED_SECRET.encode() in path.read_bytes()] == []
    assert not any(PLANTED_SECRET in output for output in outputs)


def test_a_removed_results_folder_ends_the_driver_and_the_command_starts_again(
    undisturbed: Workplace, table: FaultTable
) -> None:
    study = undisturbed.study("removed")
    with undisturbed.start("removed", *OFTEN) as driver:
        driver.wait_for(r"epoch 2/12")
        assert_only_loopback(driver)
        logs = ray_logs(driver)
        shutil.rmtree(study.path, ignore_errors=True)
        status, first_output = driver.wait(240), driver.output
        assert status == 2, driver.output
        assert "the same command starts it again" in driver.output
        assert "Traceback" not in driver.output
        assert driver.leftovers() == []
    written = [path for path in logs.rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if PLANTED_SECRET.encode() in path.read_bytes()] == []
    output = undisturbed.run("removed", *OFTEN)
    differences = compare_studies(undisturbed.study("undisturbed"), study)
    assert differences == []
    table.add("results folder removed mid-run", "the driver notices within seconds, exit status 2; the command starts it again",
              repeated_epochs([first_output, output]), differences)  # fmt: skip


def ray_logs(driver: Driver) -> Path:
    """Where the driver's Ray writes its logs."""
    arguments = [part for process in driver.descendants() for part in process.cmdline()]
    return next(Path(part.partition("=")[2]) for part in arguments if part.startswith("--log_dir="))


def assert_only_loopback(driver: Driver) -> None:
    """Every port on which a process of the study listens is on loopback, and its Ray asks for a token."""
    processes = [psutil.Process(driver.process.pid), *driver.descendants()]
    assert foreign_listeners(processes) == []
    modes = [
        process.environ().get("RAY_AUTH_MODE")
        for process in processes
        if "raylet" in process.name() or "gcs_server" in process.name()
    ]
    assert modes
    assert set(modes) == {"token"}
    assert not any(PLANTED_SECRET in " ".join(process.cmdline()) for process in processes)


def test_a_full_disk_fails_trials_and_with_room_again_the_study_completes(
    tmp_path: Path, undisturbed: Workplace, table: FaultTable
) -> None:
    place = Workplace(tmp_path, GRID, results="disk/results")
    with small_disk(tmp_path / "disk", "24m") as problem:
        if problem is not None:
            pytest.skip(f"no tmpfs can be mounted here: {problem}")
        with place.start("full", *OFTEN, "--max-failures", "0") as driver:
            driver.wait_for(r"epoch 3/12")
            ballast = fill_disk(tmp_path / "disk")
            status, output = driver.wait(), driver.output
            assert status in (2, 3), output
            assert "No space left on device" in output
            assert "Traceback" not in output
            assert driver.leftovers() == []
        ballast.unlink()
        again = place.run("full", *OFTEN)
        differences = compare_studies(undisturbed.study("undisturbed"), place.study("full"))
        assert differences == []
        assert list((place.study("full").trials).rglob(".*.tmp")) == [], "no half of a file is left"
        table.add("disk full while a checkpoint is written", f"trials fail with 'No space left on device', exit status {status}; "
                  "with room again they go on", repeated_epochs([output, again]), differences)  # fmt: skip
