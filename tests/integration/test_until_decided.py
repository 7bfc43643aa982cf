"""`--until-decided` with a real Ray: looks, more seeds, a driver that is ended between them, and the end of it.

The winners of a search get theirs in test_search.py.
"""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

import analysis
from analysis.comparison.pairs import compare_primary
from analysis.tables import build_tables
from tests.support.faults import Driver, Workplace

pytestmark = [pytest.mark.integration, pytest.mark.faults]

GRID = """
name = "looks"
[base]
dataset = "synthetic"
epochs = 2
width = 2
train_limit = 320
test_limit = 50
noise_scale_every_epochs = 0
instrument_every_steps = 0
[grid]
learning_rate = [0.05, 0.06]
"""
ASKED = ("--until-decided", "--max-seeds", "4", "--max-concurrent", "1")


def raylets(driver: Driver) -> list[psutil.Process]:
    return [process for process in driver.descendants() if process.name() == "raylet"]


def test_seeds_are_added_until_it_ends_and_an_ended_driver_goes_on(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path, GRID)
    with workplace.start("looks", *ASKED) as driver:
        driver.wait_for(r"seed 0  epoch 1/2 ")
        first_ray = raylets(driver)
        driver.wait_for("are open after 3 seeds: 2 more trials")
        driver.wait_for(r"seed 3  epoch 1/2 ")
        assert len(first_ray) == 1
        assert raylets(driver) == first_ray, "one Ray for all looks"
        driver.process.send_signal(signal.SIGTERM)
        assert driver.wait(120) == 130, driver.output
    first = analysis.load_study(workplace.study("looks").path)
    assert first.info.stopping == {"first": 3, "most": 4}
    assert first.info.seeds == (0, 1, 2, 3)

    output = workplace.run("looks", *ASKED)
    assert "goes on: " in output
    study = analysis.load_study(workplace.study("looks").path)
    assert study.trials.groupby("cell_id").size().tolist() == [4, 4]
    assert set(study.trials["status"]) == {"completed"}
    verdict = compare_primary(study)["verdict"].item()
    assert ("settled after 4 seeds" in output) == (verdict != "undecided")
    assert ("4 seeds that were allowed are spent" in output) == (verdict == "undecided")
    assert "look at every number of seeds from 3 to 4" in " ".join(build_tables(study, ["pairwise"])["pairwise"].notes)

    assert "nothing to run: 8 of 8" in workplace.run("looks", *ASKED)
    assert "planned its looks" in workplace.run("looks", "--until-decided", "--max-seeds", "9", expect=2)
