"""A study that branches, with a real Ray: a driver that is killed among its branches, one more seed, states kept and given back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import analysis
from analysis.figures import plan_figures
from analysis.tables import build_tables
from tests.support.faults import Workplace

pytestmark = [pytest.mark.integration, pytest.mark.faults]

GRID = """
name = "branched"
[base]
dataset = "synthetic"
epochs = 3
width = 2
train_limit = 320
test_limit = 50
instrument_every_steps = 0
learning_rate = 0.05
[[cells]]
batch_size = 32
[branch]
epochs = [1]
batch_sizes = [64, 160]
"""
ONE_WORKER = ("--max-concurrent", "1")


def test_a_killed_driver_goes_on_and_a_seed_is_added(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, GRID)
    folder = workplace.study("branched")
    with workplace.start("branched", "--seeds", "1", *ONE_WORKER) as driver:
        driver.wait_for("branches: 3 of 1 trials, 3 to run")
        driver.wait_for(r"branch_epoch 1  branch_batch_size \d+  .* epoch 2/2 ")
        assert len(list(folder.trials.glob("*/branch-00001.ckpt"))) == 1
        driver.process.send_signal(signal.SIGKILL)
        driver.wait(120)
    assert len(list(folder.trials.glob("*/branch-00001.ckpt"))) == 1

    output = workplace.run("branched", "--seeds", "2", *ONE_WORKER)
    assert "branches: 6 of 2 trials" in output
    assert not list(folder.trials.glob("*/branch-*.ckpt"))
    study = analysis.load_study(folder.path)
    assert study.trials["epochs_completed"].tolist() == [3, 3]
    assert study.branches["status"].tolist() == ["completed"] * 6
    assert set(study.branches["parent_id"]) == set(study.trials["trial_id"])
    base = study.branches[study.branches["config.branch_batch_size"] == 32]
    for branch, parent in zip(base["trial_id"], base["parent_id"], strict=True):
        mine, theirs = (
            frame[(frame["trial_id"] == trial) & (frame["epoch"] == 2)].iloc[0]
            for frame, trial in ((study.branch_epochs, branch), (study.epochs, parent))
        )
        names = ["train_loss", "test_loss", "gradient_covariance_trace", "step"]
        assert mine[names].tolist() == theirs[names].tolist()
    table = build_tables(study, ["critical_batch_size"])["critical_batch_size"].frame
    assert table[["scaling", "seeds", "images", "base", "largest"]].to_numpy().tolist() == [["linear", 2, 320, 32, 160]]
    assert "critical_batch_size" in {kind.name for kind, _ in plan_figures(study)}
    assert "nothing to run: 2 of 2" in workplace.run("branched", "--seeds", "2", *ONE_WORKER)
