"""More seeds until it is settled: which cells get them, when it ends, how often it is wrong, and what it saves."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.comparison.pairs import compare_primary
from analysis.records.frames import Study, load_study
from study.driver.until_decided import look
from study.folder.study_record import IncomparableError, extend_study
from study.plan.seeds import simulate_seeds
from study.run import main
from study.spec.errors import SpecError
from study.spec.grid_file import parse_grid
from study.spec.study_spec import build_spec
from tests.support.studies import Truth, build_cell, write_synthetic_study

TEXT = 'name = "x"\nseeds = [4, 7]\n[grid]\nbatch_size = [32, 64, 128]\n'


def _study(folder: Path, truths: list[Truth], seeds: list[int], most: int) -> Study:
    cells = [
        build_cell(f"cell {n}", learning_rate=0.1 + n / 100, epochs=2, instrument_every_steps=0, log_every_steps=500)
        for n in range(len(truths))
    ]
    write_synthetic_study(folder, cells=cells, truths=truths, seeds=seeds)
    study = load_study(folder)
    return Study(study.folder, dataclasses.replace(study.info, stopping={"first": 3, "most": most}))


def _look(study: Study, slots: int = 1) -> tuple[set[str], set[int], str]:
    found = look(study, {cell: set(study.info.seeds) for cell in study.cells}, slots)
    labels = {cell.config["learning_rate"]: cell.label for cell in study.info.cells}
    return {labels[c.learning_rate] for c in found.configs}, {c.seed for c in found.configs}, found.said


def test_settled_cells_get_no_more_seeds(tmp_path: Path) -> None:
    truths = [Truth(0.93, seed_sd=0.002), Truth(0.9301, seed_sd=0.002), Truth(0.80, seed_sd=0.0005)]
    cells, seeds, said = _look(_study(tmp_path, truths, [0, 1, 2], 12))
    assert cells == {"cell 0", "cell 1"}
    assert seeds == {3}
    assert "1 of 2 comparisons with the best cell are open after 3 seeds: 2 more trials" in said


def test_it_ends_when_all_is_settled(tmp_path: Path) -> None:
    cells, _, said = _look(_study(tmp_path, [Truth(0.93, seed_sd=0.001), Truth(0.80, seed_sd=0.001)], [0, 1, 2, 3], 12))
    assert not cells
    assert said.startswith("settled after 4 seeds")


def test_it_ends_when_the_seeds_are_spent(tmp_path: Path) -> None:
    cells, _, said = _look(_study(tmp_path, [Truth(0.93, seed_sd=0.02), Truth(0.93, seed_sd=0.02)], [0, 1, 2], 3))
    assert not cells
    assert "the 3 seeds that were allowed are spent" in said


def test_free_slots_are_filled_with_further_seeds(tmp_path: Path) -> None:
    """As many at a time as there is room for, but not more than would probably settle it, and not more than are allowed."""
    study = _study(tmp_path, [Truth(0.93, seed_sd=0.02), Truth(0.93, seed_sd=0.02)], [0, 1, 5], 10)
    expected = int(compare_primary(study)["more_seeds"].item())
    assert 2 <= expected < 7
    assert _look(study, slots=3)[:2] == ({"cell 0", "cell 1"}, {2})
    assert _look(study, slots=100)[1] == set([2, 3, 4, 6, 7, 8, 9][:expected])
    study = Study(study.folder, dataclasses.replace(study.info, stopping={"first": 3, "most": 4}))
    assert _look(study, slots=100)[1] == {2}


def test_a_cell_that_lacks_seeds_catches_up(tmp_path: Path) -> None:
    """Differences are paired: both cells of an open pair need the same seeds."""
    study = _study(tmp_path, [Truth(0.93, seed_sd=0.02), Truth(0.93, seed_sd=0.02)], [0, 1, 2, 3], 10)
    first, second = study.cells
    found = look(study, {first: {0, 1, 2, 3}, second: {0, 1, 2}}, 1)
    assert {(c.learning_rate, c.seed) for c in found.configs} == {(0.1, 4), (0.11, 3), (0.11, 4)}


def test_cells_that_never_complete_are_not_pursued(tmp_path: Path) -> None:
    cells = [build_cell(f"cell {n}", learning_rate=0.1 + n / 100, epochs=2, instrument_every_steps=0) for n in range(2)]
    outcomes = {(1, seed): "diverged" for seed in range(3)}
    write_synthetic_study(tmp_path, cells=cells, seeds=range(3), outcomes=outcomes, stopping={"first": 3, "most": 9})
    study = load_study(tmp_path)
    found = look(study, {cell: {0, 1, 2} for cell in study.cells}, 2)
    assert found.configs == ()
    assert "nothing to settle" in found.said


def test_three_seeds_come_before_the_first_look() -> None:
    spec = build_spec(parse_grid(TEXT, "test"), most_seeds=9)
    assert spec.seeds == (4, 7, 0)
    assert spec.stopping == {"first": 3, "most": 9}
    assert build_spec(parse_grid(TEXT, "test")).stopping is None


@pytest.mark.parametrize(
    ("text", "most", "words"),
    [(TEXT, 2, "--max-seeds 2"), (TEXT.replace("[32, 64, 128]", "[32]"), 9, "one cell"), (TEXT, 10**6, "trials")],
)
def test_what_cannot_be_decided_is_refused(text: str, most: int, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        build_spec(parse_grid(text, "test"), most_seeds=most)


def test_max_seeds_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--grid", "demo", "--max-seeds", "5", "--plan"]) == 2
    assert "--until-decided" in capsys.readouterr().err


def test_the_plan_says_fewest_most_and_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--grid", "demo", "--until-decided", "--max-seeds", "15", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "3 to 15 per cell" in said
    assert "6 to 30 trials" in said
    assert "expected for a pair" in said


def test_looks_that_were_planned_otherwise_are_refused(tmp_path: Path) -> None:
    study = _study(tmp_path, [Truth(), Truth()], [0, 1, 2], 12).info
    once = dataclasses.replace(study, stopping=None)
    assert extend_study(study, once, accept_changes=False).stopping == study.stopping
    for existing, asked in ((once, study), (study, dataclasses.replace(study, stopping={"first": 3, "most": 20}))):
        with pytest.raises(IncomparableError, match="planned its looks"):
            extend_study(existing, asked, accept_changes=True)


STUDIES = 1000
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize(("difference", "false"), [(0.0, "different"), (1.0, "equivalent")])
def test_whole_sequences_are_wrong_in_at_most_five_percent(difference: float, false: str) -> None:
    """The margin is one standard deviation; the difference none, or exactly the margin."""
    from analysis import statistics

    drawn = np.random.default_rng(5).normal(difference, 1, (STUDIES, 20))
    open_, wrong = np.ones(STUDIES, dtype=bool), 0
    for number in range(3, 21):
        found = statistics.compare_paired(drawn[:, :number], 1, statistics.spend(number, 3, 20))
        verdicts = statistics.decide(found, 1.0)
        wrong += int((open_ & (verdicts == false)).sum())
        open_ &= verdicts == "undecided"
    assert wrong / STUDIES <= ALLOWED
    assert open_.mean() < 0.9, "it would be right by never deciding"


def test_large_differences_take_few_seeds() -> None:
    far, near = (simulate_seeds(3, 20, 1, difference, 0.5).mean() for difference in (5.0, 0.5))
    assert far < 6 < 15 < near
