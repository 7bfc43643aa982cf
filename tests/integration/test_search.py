"""A search with a real Ray and a real Optuna: killed, resumed, extended, looked at in optuna-dashboard."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import analysis
from analysis.records.study_folder import StudyFolder
from tests.support.faults import Workplace, compare_trials, states
from trainable.config import trial_id

pytestmark = pytest.mark.integration

GRID = """
name = "small"
[base]
dataset = "synthetic"
width = 2
epochs = 3
train_limit = 300
instrument_every_steps = 10
test_limit = 50
noise_scale_every_epochs = 0
[search]
trials = 6
top_k = 1
[search.space]
batch_size = { choices = [16, 32] }
learning_rate = { low = 0.001, high = 0.5, log = true }
[[cells]]
label = "known"
batch_size = 16
learning_rate = 0.05
[[cells]]
label = "too high"
batch_size = 32
learning_rate = 0.5
"""
ASKED = ("--max-concurrent", "1", "--checkpoint-interval", "0", "--until-decided", "--max-seeds", "4")


def journal(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder.search_journal)))
    return optuna.load_study(study_name=folder.path.name, storage=storage).trials


def outcomes(folder: StudyFolder) -> list[Any]:
    return [(t.number, t.params, t.state.name, t.values, t.intermediate_values) for t in journal(folder)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("search"), GRID)


@pytest.fixture(scope="module")
def whole(workplace: Workplace) -> tuple[StudyFolder, str]:
    """A search that nobody disturbed, and what it printed."""
    output = workplace.run("whole", *ASKED)
    return workplace.study("whole"), output


def test_a_search_ends_with_its_winners_on_the_test_set(whole: tuple[StudyFolder, str]) -> None:
    folder, output = whole
    trials = journal(folder)
    assert len(trials) == 6
    assert {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    best = max((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: (t.values[0], -t.number))
    by_role: dict[str, list[Any]] = {"search": [], "confirmation": []}
    for row in folder.read_records("trials").to_pylist():
        by_role[row["role"]].append(row)
    assert sorted(row["trial_id"] for row in by_role["search"]) == sorted(t.user_attrs["trial_id"] for t in trials)
    confirmed = {(r["config.batch_size"], r["config.learning_rate"]) for r in by_role["confirmation"]}
    known = {(16, 0.05), (32, 0.5)}
    assert confirmed == known | {(best.params["batch_size"], best.params["learning_rate"])}
    assert {row["config.validation_size"] for row in by_role["confirmation"]} == {0}
    tested = {row["trial_id"]: row["test_accuracy"] for row in folder.read_records("epochs").to_pylist()}
    assert all(
        (tested[row["trial_id"]] is None) == (row["role"] == "search") for rows in by_role.values() for row in rows
    )
    for trial in trials:
        state = states(folder)[trial.user_attrs["trial_id"]]
        assert state.status == {"COMPLETE": "completed", "PRUNED": "pruned"}[trial.state.name]
        assert state.reason == trial.user_attrs.get("reason")
        assert max(trial.intermediate_values) == state.epochs_completed
        assert state.trial_id == trial_id(state.config, state.data_fingerprint)
    assert f"of {6 * 3} without pruning" in output
    info = folder.read_study()
    assert info.search is not None
    assert info.search["enqueued"] == [{"batch_size": b, "learning_rate": lr} for b, lr in ((16, 0.05), (32, 0.5))]
    assert {row["config.test_limit"] for row in by_role["search"]} == {0}


@pytest.mark.faults
def test_killed_and_resumed_it_is_the_same_search(workplace: Workplace, whole: tuple[StudyFolder, str]) -> None:
    reference, _ = whole
    folder = workplace.study("killed")
    running = next(t.number for t in journal(reference) if t.number >= 2)
    with workplace.start("killed", *ASKED) as driver:
        driver.wait_for(rf"seed {1_000_000 + running}  epoch 1/3")
        driver.process.send_signal(signal.SIGKILL)
        driver.wait()
        driver.leftovers()
    output = workplace.run("killed", *ASKED)
    assert "search goes on: " in output
    assert outcomes(folder) == outcomes(reference)
    assert compare_trials(reference, folder) == []
    assert len(folder.read_study().attempts) == 2


def test_a_finished_search_is_extended(workplace: Workplace, whole: tuple[StudyFolder, str]) -> None:
    folder, _ = whole
    before = outcomes(folder)
    assert "nothing to run" in workplace.run("whole", *ASKED)
    output = workplace.run("whole", *ASKED, "--trials", "7")
    assert "search goes on: 6 trials so far, 0 of them to be finished" in output
    assert outcomes(folder)[:6] == before
    assert [trial.state.is_finished() for trial in journal(folder)] == [True] * 7
    assert len(folder.read_study().attempts) == 2  # where there was nothing to run there was no attempt


def test_winners_get_more_seeds_until_they_are_told_apart(whole: tuple[StudyFolder, str]) -> None:
    folder, output = whole
    assert "are open after 3 seeds" in output, output
    assert folder.read_study().stopping == {"first": 3, "most": 4}
    trials = analysis.load_study(folder.path).trials
    seeds = trials.groupby("cell_id")["seed"].apply(list).tolist()
    assert sum(found == [0, 1, 2, 3] for found in seeds) >= 2, "whoever is open is compared with another that is"
    assert all(found in ([0, 1, 2], [0, 1, 2, 3]) for found in seeds)


def test_optuna_dashboard_opens_the_journal(whole: tuple[StudyFolder, str]) -> None:
    folder, _ = whole
    with dashboard(folder.search_journal) as address:
        studies = ask(f"{address}/api/studies")["study_summaries"]
        assert [study["study_name"] for study in studies] == ["whole"]
        detail = ask(f"{address}/api/studies/{studies[0]['study_id']}")
    shown = [(t["number"], t["state"].upper(), len(t["intermediate_values"])) for t in detail["trials"]]
    words = {"COMPLETE": "COMPLETE", "PRUNED": "PRUNED"}
    assert shown == [(t.number, words[t.state.name], len(t.intermediate_values)) for t in journal(folder)]


@contextmanager
def dashboard(path: Path) -> Iterator[str]:
    """optuna-dashboard on a journal, on loopback; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("optuna-dashboard")),
        str(path),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                ask(f"http://127.0.0.1:{port}/api/studies")
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "optuna-dashboard did not answer"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


def ask(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.loads(answer.read())


def test_nothing_of_a_search_is_said_with_a_traceback(whole: tuple[StudyFolder, str]) -> None:
    _, output = whole
    assert not re.search(r"Warning|Traceback", output), output
