"""Studies submitted to a real Ray cluster on this machine: submit, status, logs, stop, go on, pull, several side by side."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import list_states
from study.page.elsewhere import ClusterStudies
from study.service.connection import connect
from tests.support.alone import run_alone
from tests.support.fault_table import FaultTable
from tests.support.faults import compare_trials, repeated_epochs, wait_until
from tests.support.head_by_hand import REPOSITORY, Head, start_head

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

GRID = """
name = "{name}"
seeds = {seeds}
[base]
dataset = "synthetic"
epochs = {epochs}
width = 1
train_limit = 256
test_limit = 20
noise_scale_every_epochs = 0
instrument_every_steps = 5
log_every_steps = 2
learning_rate = 0.05
[grid]
batch_size = [32, 64]
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with start_head(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def write_grid(folder: Path, name: str, epochs: int, seeds: int = 1) -> str:
    path = folder / f"{name}.toml"
    path.write_text(GRID.format(name=name, epochs=epochs, seeds=list(range(seeds))))
    return str(path)


def wait_for(head: Head, study: str | None, pattern: str, timeout_s: float = 240.0) -> str:
    """Ask for the status of a study, or of all, until it matches."""
    deadline = time.monotonic() + timeout_s
    while True:
        said = head.client("study.status", *([study] if study else []))
        assert said.returncode == 0, said.stderr
        if re.search(pattern, said.stdout):
            return said.stdout
        assert time.monotonic() < deadline, said.stdout + (head.client("study.logs", study).stdout if study else "")
        time.sleep(1)


def test_a_study_is_submitted_watched_and_pulled(head: Head, tmp_path: Path) -> None:
    results = tmp_path / "on-the-cluster"
    grid = write_grid(tmp_path, "first", epochs=2)
    followed = head.client("study.submit", "--grid", grid, "--results", str(results), "--follow")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert followed.stdout.startswith("first\n")
    assert "progress: 2 of 2 trials done" in followed.stdout

    status = head.client("study.status").stdout.splitlines()
    assert [line.split()[:5] for line in status if line.startswith("first")] == [["first", "done", "2", "of", "2"]]
    told = json.loads(head.client("study.status", "first", "--json").stdout)
    assert (told["state"], told["progress"]["num_done"], told["progress"]["num_trials"]) == ("done", 2, 2)
    assert json.loads((results / "first" / "progress.json").read_text()) == told["progress"], "the folder has the same"
    logs = head.client("study.logs", "first").stdout
    kept = (results / "first" / "driver.log").read_text().splitlines()
    assert kept[0].startswith("--- ")
    assert any(line.startswith("progress: 2 of 2 trials done") for line in kept), kept[-3:]
    assert set(kept[1:]) <= set(logs.splitlines()), "the folder has the job's log, from where its checks had passed"
    assert sorted(re.findall(r"epoch (\d)/2", logs)) == ["1", "1", "2", "2"]
    assert head.client("study.logs", "first", "--lines", "2").stdout.splitlines() == logs.splitlines()[-2:]

    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(head.token)
    listed = ClusterStudies(connect(head.url, token))
    listed.look()
    assert [(study["name"], study["state"], study["version"]) for study in listed.describe()] == [
        ("first", "done", None)
    ]

    bare = head.client("study.pull", "first", "--to", str(tmp_path / "bare"), "--no-report")
    assert (bare.returncode, bare.stdout.count("\n")) == (0, 1), bare.stderr
    assert not (tmp_path / "bare" / "report" / "index.html").exists()
    pulled = head.client("study.pull", "first", "--to", str(tmp_path / "here"))
    assert pulled.returncode == 0, pulled.stderr
    assert "final test accuracy, %" in pulled.stdout
    here, there = StudyFolder(tmp_path / "here"), StudyFolder(results / "first")
    for kind in ("trials", "epochs", "steps", "layers", "model"):
        assert here.read_records(kind).equals(there.read_records(kind))
    assert (here.report / "index.html").is_file()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert here.read_study().code["commit"] == commit.stdout.strip(), "the copy on the cluster knows where it came from"


def test_a_pull_leaves_nothing_on_the_head(head: Head, tmp_path: Path) -> None:
    """Run after the first one: it looks at what the pull has left."""
    logs = list(head.ray.glob("session_2*/logs/job-driver-pull-*.log"))
    assert logs
    assert sum(log.stat().st_size for log in logs) < 10_000
    jobs = head.client("study.status").stdout
    assert "pull-" not in jobs


def test_a_study_that_its_checks_refuse_is_said_at_submission(head: Head, tmp_path: Path) -> None:
    grid = write_grid(tmp_path, "refused", epochs=2)
    asked = ("--grid", grid, "--results", str(tmp_path / "results"), "--set", "dataset=cifar10", "--name", "refused")
    refused = head.client("study.submit", *asked, "--data", "/nowhere")
    assert refused.returncode == 2, refused.stdout
    *waited, error = refused.stderr.splitlines()
    assert error.startswith("error: study 'refused' has not begun: ")
    assert "/nowhere" in error
    assert all(re.fullmatch(r"the study('s)? .*", line) for line in waited), "nothing but what was waited for"
    assert not (tmp_path / "results").exists()
    status = head.client("study.status", "refused")
    assert (status.returncode, "ended with an error" in status.stdout) == (1, True), status.stdout


OWN_CODE = """
import numpy as np
from torch import nn


def images(folder):
    draw = np.random.default_rng(0)
    labels = np.arange(128) % 2
    pixels = draw.integers(0, 100, (128, 16, 16, 1)) + 100 * labels[:, None, None, None]
    part = pixels.astype(np.uint8), labels
    return part, (part[0][:32], labels[:32]), ["dark", "light"]


def build(num_classes, input_shape, *, channels: int = 4, fragile: bool = False):
    class Net(nn.Sequential):
        def forward(self, images):
            if fragile and len(images) == 32:
                raise RuntimeError(f"no {channels} channels on this node")
            return super().forward(images)

    return Net(nn.Conv2d(input_shape[0], channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
"""
OWN_GRID = """
name = "own"
seeds = [0]
[base]
model = "owncode:build"
dataset = "owncode:images"
epochs = 1
batch_size = 32
[grid]
model_fields.fragile = [false, true]
"""


def test_own_code_travels_and_its_line_comes_back(head: Head, tmp_path: Path) -> None:
    (tmp_path / "owncode.py").write_text(OWN_CODE)
    (tmp_path / "own.toml").write_text(OWN_GRID)
    asked = ("--grid", str(tmp_path / "own.toml"), "--results", str(tmp_path / "results"), "--data", str(tmp_path))
    followed = head.client("study.submit", *asked, "--max-failures", "0", "--follow")
    assert followed.returncode == 3, followed.stdout + followed.stderr
    line = r"owncode\.py:\d+ \(raise RuntimeError\(.*\)\): RuntimeError: no 4 channels on this node"
    assert re.search(rf"^failed: fragile True, seed 0, trial \w+: .*{line}", followed.stdout, re.MULTILINE)
    status = head.client("study.status", "own")
    assert status.returncode == 3
    assert re.search(rf"last: .*{line}", status.stdout), status.stdout
    pulled = head.client("study.pull", "own", "--to", str(tmp_path / "here"))
    assert pulled.returncode == 0, pulled.stderr
    trials = StudyFolder(tmp_path / "here").read_records("trials").to_pylist()
    assert sorted(trial["status"] for trial in trials) == ["completed", "failed"]


def test_a_stopped_study_saves_and_the_same_submit_goes_on(head: Head, tmp_path: Path) -> None:
    results = tmp_path / "results"
    submit = ("study.submit", "--grid", write_grid(tmp_path, "stopped", epochs=80), "--results", str(results))
    submitted = head.client(*submit)
    assert (submitted.returncode, submitted.stdout.splitlines()[-1]) == (0, "state    running"), submitted.stderr
    again = head.client(*submit)
    assert (again.returncode, again.stdout) == (2, "")
    assert "runs on" in again.stderr
    assert again.stderr.count("\n") == 1

    follower = subprocess.Popen(
        [sys.executable, "-m", "study.logs", "stopped", "--follow", "--cluster", head.url], cwd=REPOSITORY,
        env=head.client_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where the tests run in the background
    )  # fmt: skip
    assert follower.stdout is not None
    for line in follower.stdout:
        if " epoch 2/80" in line:
            break
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert "study stopped goes on" in said
    assert "running" in head.client("study.status", "stopped").stdout

    stopped = head.client("study.stop", "stopped")
    assert stopped.returncode == 0, stopped.stderr
    assert "goes on" in stopped.stdout
    assert re.search(r"^(trials are saving: \d of 2|all 2 trials have saved.*)$", stopped.stderr, re.MULTILINE), (
        stopped.stderr
    )
    states = list_states(StudyFolder(results / "stopped"))
    assert [state.status for state in states] == ["pending", "pending"]
    assert all(2 <= state.epochs_completed < 80 for state in states)
    assert re.search(r"^stopped +interrupted", head.client("study.status").stdout, re.MULTILINE)
    assert head.client("study.logs", "stopped", "--follow").returncode == 130
    twice = head.client("study.stop", "stopped")
    assert (twice.returncode, twice.stderr.count("\n")) == (2, 1)

    finished = head.client(*submit, "--follow")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "2 of them from a checkpoint" in finished.stdout
    assert [state.epochs_completed for state in list_states(StudyFolder(results / "stopped"))] == [80, 80]


@pytest.mark.faults
def test_a_study_outlives_its_head_and_the_same_submit_goes_on_at_a_new_one(tmp_path: Path, table: FaultTable) -> None:
    """The old head is gone with all it knew; what is left are the results. Compared with the same trials without Ray."""
    study = StudyFolder(tmp_path / "results" / "outlives")
    grid = write_grid(tmp_path, "outlives", epochs=12)
    submit = ("study.submit", "--grid", grid, "--results", str(study.path.parent), "--checkpoint-interval", "0")
    with start_head(tmp_path / "old") as head:
        assert head.client(*submit).returncode == 0
        wait_until(
            lambda: study.trials.is_dir() and any(state.epochs_completed >= 2 for state in list_states(study)), 240
        )
        head.kill()
    before = (study.path / "driver.log").read_text()
    assert "epoch 2/12" in before, "what it printed outlives the head"
    with start_head(tmp_path / "new") as head:
        assert "no study 'outlives' was submitted" in head.client("study.status", "outlives").stderr
        goes_on = head.client(*submit, "--follow", timeout_s=500)
        assert goes_on.returncode == 0, goes_on.stdout + goes_on.stderr
        assert re.search(r"goes on: \d trials done, \d to run, [12] of them from a checkpoint", goes_on.stdout)
    assert (study.path / "driver.log").read_text().startswith(before)
    differences = compare_trials(run_alone(grid, tmp_path / "alone" / "outlives"), study)
    assert differences == []
    log = (study.path / "driver.log").read_text()
    table.add("SIGKILL of the head and all on it, then a new head", "the same `study submit` goes on; the log of before is in the study's folder",
              repeated_epochs([log]), differences)  # fmt: skip


@pytest.mark.faults
def test_a_cluster_grows_from_its_head_for_two_studies_and_shrinks_again(tmp_path: Path) -> None:
    """The head has no CPU for trials; its autoscaler may start two nodes of one CPU, and ends them when they are idle."""
    with start_head(tmp_path, num_cpus=0, workers=2) as head:
        wait_until(lambda: head.num_nodes() == 1)
        studies = ("one", "two")
        for name in studies:
            grid = write_grid(tmp_path, name, epochs=60, seeds=2)
            submitted = head.client("study.submit", "--grid", grid, "--results", str(tmp_path / "results"))
            assert submitted.returncode == 0, submitted.stderr
        wait_for(head, None, r"one +running +\d of 4 +[\d:]+ .*\ntwo +running +\d of 4 +[\d:]+ ")
        wait_for(head, None, r"one +done +4 of 4 .*\ntwo +done +4 of 4 ")
        assert head.num_nodes() == 3
        wait_until(lambda: head.num_nodes() == 1, 300)
    trials = [state for name in studies for state in list_states(StudyFolder(tmp_path / "results" / name))]
    assert [state.status for state in trials] == ["completed"] * 8
    spans = [(state.started_at or "", state.ended_at or "") for state in trials]
    at_once = [sum(one[0] <= start < one[1] for one in spans) for start, _ in spans]
    assert max(at_once) == 2, "both nodes were used, by one trial each"
    assert any(max(a[0], b[0]) < min(a[1], b[1]) for a in spans[:4] for b in spans[4:]), "each study has its share"


SHARES = """
import time
import ray
from study.cluster import fair_share
from study.cluster.fair_share import FairShare

fair_share._INTERVAL_S = 0.2
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

def has_actor():
    return fair_share._ACTOR in [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]

def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

with FairShare("one", None, lambda: 8) as one:
    with FairShare("two", None, lambda: 8) as two:
        assert two.trials == 4
    assert has_actor(), "the first one still runs"
    wait_until(lambda: one.trials == 8)
for round in range(5):  # who joins just when the last one leaves
    with FairShare(f"new-{round}", None, lambda: 8) as new, FairShare(f"newer-{round}", None, lambda: 8) as newer:
        wait_until(lambda: (new.trials, newer.trials) == (4, 4))
wait_until(lambda: not has_actor())
print("left as it was")
"""


def test_the_last_study_that_leaves_a_cluster_leaves_no_actor_there(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", SHARES], cwd=REPOSITORY, env={**environment, "HOME": str(tmp_path)}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.endswith("left as it was\n"), done.stdout + done.stderr
