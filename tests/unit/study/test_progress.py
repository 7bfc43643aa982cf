"""What is said about a study while it runs: counts and time left, and that nobody who stops reading ends it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from study.driver import progress as progress_module
from study.driver.progress import Progress
from study.folder.progress_file import ProgressFile
from trainable.config import TrialConfig
from trainable.records.trial_state import TrialState

EPOCH = {
    "epoch": 1, "train_loss": 1.0, "train_accuracy": 0.5, "test_loss": 1.0, "test_accuracy": 0.5, "images_per_s": 100.0,
    "train_time_s": 9.0, "eval_time_s": 1.0,
}  # fmt: skip


def make_states(count: int, epochs: int = 3) -> list[TrialState]:
    return [
        TrialState(config=TrialConfig(dataset="synthetic", epochs=epochs, seed=seed), data_fingerprint="d" * 16)
        for seed in range(count)
    ]


def run_trials(progress: Progress, states: list[TrialState]) -> None:
    """Every trial starts, finishes an epoch and ends."""
    for state in states:
        progress.start(state.trial_id)
        progress.update(state.trial_id, EPOCH)
        progress.end(state.trial_id, "completed")


def summary_of(progress: Progress, output: StringIO) -> str:
    progress.__exit__()  # says how far the study is
    return output.getvalue().splitlines()[-1]


def test_trials_that_are_not_known_yet_count_as_planned_and_take_time() -> None:
    output, (ended, running) = StringIO(), make_states(2)
    progress = Progress(Console(file=output), [], [], max_concurrent=2, num_planned=40)
    assert summary_of(progress, output) == "progress: 0 of 40 trials done"
    progress.add(ended)
    run_trials(progress, [ended])
    progress.add(running)
    progress.start(running.trial_id)
    left_s = (1 + 38) * 3 * 10 // 2  # 3 epochs of 10 s each, two trials at a time
    assert summary_of(progress, output) == f"progress: 1 of 40 trials done, {left_s // 60}:{left_s % 60:02} left"


def test_the_time_left_follows_the_share_of_the_cluster() -> None:
    output, states = StringIO(), make_states(9)
    progress = Progress(Console(file=output), states, [], max_concurrent=4)
    run_trials(progress, states[:1])
    assert summary_of(progress, output) == "progress: 1 of 9 trials done, 1:00 left"
    progress.share_out(2)  # another study has come
    assert summary_of(progress, output) == "progress: 1 of 9 trials done, 2:00 left"


def test_without_a_plan_there_are_as_many_trials_as_are_known() -> None:
    output, states = StringIO(), make_states(3)
    progress = Progress(Console(file=output), states, [], max_concurrent=1)
    run_trials(progress, states[:1])
    assert summary_of(progress, output) == "progress: 1 of 3 trials done, 1:00 left"


def test_failed_trials_are_counted_apart_and_other_ends_are_done() -> None:
    output, states = StringIO(), make_states(5)
    progress = Progress(Console(file=output), states, [], max_concurrent=1)
    for state, status in zip(states, ("completed", "diverged", "pruned", "failed", "waiting"), strict=True):
        progress.end(state.trial_id, status)
    assert summary_of(progress, output) == "progress: 3 of 5 trials done, 1 failed"


def test_the_progress_file_counts_as_the_summary_does_and_stays_current(monkeypatch: pytest.MonkeyPatch) -> None:
    file, states = ProgressFile(), make_states(4)
    with Progress(Console(file=StringIO()), states, [], max_concurrent=2, file=file) as progress:
        assert (file.progress.num_trials, file.progress.num_done, file.progress.left_s) == (4, 0, None)
        run_trials(progress, states[:1])
        progress.start(states[1].trial_id)
        progress.end(states[2].trial_id, "failed", "an error")
        progress.save_when_due()
        assert file.progress.num_running == 0, "it is not written with every change"
        monkeypatch.setattr(progress_module, "_ENDING_INTERVAL_S", 0.0)
        progress.save_when_due(ending=True)
        assert file.progress.num_running == 1, "but soon where somebody waits for the end"
        progress.start(states[3].trial_id)
        monkeypatch.setattr(progress_module, "_SUMMARY_INTERVAL_S", 0.0)
        progress.save_when_due()
    now = file.progress
    assert (now.num_done, now.num_running, now.num_failed, now.num_trials, now.left_s) == (1, 2, 1, 4, 30.0)


@contextlib.contextmanager
def broken_pipe() -> Iterator[IO[str]]:
    """The end of a pipe that nobody reads."""
    read_end, write_end = os.pipe()
    file = os.fdopen(write_end, "w")
    os.close(read_end)
    yield file
    with contextlib.suppress(BrokenPipeError):
        file.close()


@contextlib.contextmanager
def closed_terminal() -> Iterator[IO[str]]:
    """A terminal whose window was closed: writing gives EIO."""
    window, terminal = pty.openpty()
    file = os.fdopen(terminal, "w")
    os.close(window)
    yield file
    with contextlib.suppress(OSError):
        file.close()


@pytest.mark.parametrize("output", [broken_pipe, closed_terminal])
@pytest.mark.parametrize("live", [False, True])
def test_who_stops_reading_does_not_end_the_study(
    output: type[contextlib.AbstractContextManager[IO[str]]], live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    states = make_states(3)
    with output() as file, Progress(Console(file=file, force_terminal=live), states, [], 1) as progress:
        run_trials(progress, states)
        progress.end(states[0].trial_id, "failed", "a reason is printed above the table")
        if live:
            progress._live.refresh()  # type: ignore[union-attr]  # as its thread does
            assert progress._live._refresh_thread.is_alive()  # type: ignore[union-attr]
    assert died == []


CODE = """
import sys
from rich.console import Console
from study.driver import progress as progress_module
from study.driver.progress import Progress
from tests.unit.study.test_progress import make_states, run_trials
sys.stdin.readline()
states = make_states(3)
with Progress(Console(), states, [], 1) as progress:
    run_trials(progress, states)
print("saved", file=sys.stderr, flush=True)
"""


def test_a_driver_whose_tee_was_ended_goes_on() -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert driver.stdout is not None
    driver.stdout.close()
    driver.stdout = None
    _, said = driver.communicate("go\n", timeout=60)
    assert said.startswith("saved\n")
