"""Verdicts on pairs of cells of whole studies, and the effects of factorial ones, against populations of known truth."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparison.best import rank_cells
from analysis.comparison.effects import list_effects, measure_effects
from analysis.comparison.hypotheses import judge_hypotheses
from analysis.comparison.pairs import MOST_CELLS_IN_PAIRS, compare_cells, compare_primary, list_pairs
from analysis.comparison.words import answer
from analysis.design.confounds import find_confounds
from analysis.records.frames import Study, load_study
from analysis.records.summary import summarize_trials
from analysis.results.formats import format_rows
from analysis.tables import build_tables
from tests.support.studies import Truth, build_cell, paper_cells, write_synthetic_study


def _study(folder: Path, truths: list[Truth], seeds: int) -> Study:
    cells = [
        build_cell(f"cell {n}", learning_rate=0.1 + n / 100, epochs=2, instrument_every_steps=0, log_every_steps=500)
        for n in range(len(truths))
    ]
    write_synthetic_study(folder, cells=cells, truths=truths, seeds=range(seeds))
    return load_study(folder)


def _verdict(frame: pd.DataFrame, a: str, b: str) -> str:
    row = frame[(frame["metric"] == "final_test_accuracy") & (frame["label_a"] == a) & (frame["label_b"] == b)]
    return str(row["verdict"].item())


def test_verdicts_on_known_truth(tmp_path: Path) -> None:
    truths = [
        Truth(0.93, seed_sd=0.001),
        Truth(0.93, seed_sd=0.001),
        Truth(0.91, seed_sd=0.001),
        Truth(0.925, seed_sd=0.03),
    ]
    frame = compare_cells(_study(tmp_path, truths, 12))
    assert _verdict(frame, "cell 0", "cell 1") == "equivalent"
    assert _verdict(frame, "cell 0", "cell 2") == "different"
    assert _verdict(frame, "cell 0", "cell 3") == "undecided"
    undecided = frame[frame["verdict"] == "undecided"]
    assert (undecided["more_seeds"] >= 1).all()
    assert frame.loc[frame["verdict"] != "undecided", "more_seeds"].isna().all()
    assert len(frame) == 6 * frame["metric"].nunique()


def test_rows_agree_with_scipy_on_the_same_seeds(tmp_path: Path) -> None:
    """The primary metric is corrected over its pairs only, here one; the others over all of themselves."""
    study = _study(tmp_path, [Truth(), Truth(0.92)], 6)
    trials, frame = summarize_trials(study), compare_cells(study)
    others = frame["metric"].nunique() - 1
    for row in frame.to_dict("records"):
        values = [
            trials.loc[trials["cell_id"] == row[f"cell_{side}"]].sort_values("seed")[row["metric"]].to_numpy()
            for side in "ab"
        ]
        family = 1 if row["metric"] == "final_test_accuracy" else others
        expected = stats.ttest_rel(*values)
        interval = expected.confidence_interval(1 - 0.05 / family)
        assert row["p"] == pytest.approx(min(1, expected.pvalue * family))
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert row["difference"] == pytest.approx(values[0].mean() - values[1].mean())
        assert (row["verdict"] == "undecided") <= (row["low"] <= 0 <= row["high"])
        better = values[0] < values[1] if "loss" in row["metric"] or row["metric"] == "gap" else values[0] > values[1]
        assert row["wins"] == better.sum()
        assert (row["chance"] > 0.5) == (row["wins"] > 3) or row["wins"] == 3
        assert np.isnan(row["margin"]) == ("loss" in row["metric"])


def test_only_seeds_of_both_cells_are_compared(tmp_path: Path) -> None:
    cells = paper_cells(epochs=2, instrument_every_steps=0)
    write_synthetic_study(tmp_path, cells=cells, seeds=range(4), outcomes={(0, 1): "diverged", (1, 2): "missing"})
    assert compare_cells(load_study(tmp_path))["seeds"].unique().tolist() == [2]


def test_one_seed_is_undecided_and_says_why(tmp_path: Path) -> None:
    study = _study(tmp_path, [Truth(0.95), Truth(0.80)], 1)
    frame = compare_cells(study)
    assert frame["verdict"].unique().tolist() == ["undecided"]
    assert frame["reason"].str.startswith("one seed").all()
    headers, rows = format_rows(build_tables(study, ["pairwise"])["pairwise"])
    assert rows[0][headers.index("verdict")] == "undecided"
    assert rows[0][headers.index("reason")].startswith("one seed")


def test_many_cells_are_compared_with_the_first_only() -> None:
    ids = [str(number) for number in range(MOST_CELLS_IN_PAIRS + 1)]
    assert len(list_pairs(ids[:-1])) == MOST_CELLS_IN_PAIRS * (MOST_CELLS_IN_PAIRS - 1) / 2
    assert list_pairs(ids) == [("0", other) for other in ids[1:]]


def _factorial_study(folder: Path, seeds: int = 4) -> Study:
    cells = [
        build_cell(f"{b} {lr}", batch_size=b, learning_rate=lr, epochs=2, instrument_every_steps=0, log_every_steps=500)
        for b in (64, 128)
        for lr in (0.15, 0.2)
    ]
    # batch size costs 1 point, learning rate 2, and together 3 more than the sum
    truths = [Truth(0.93), Truth(0.91), Truth(0.92), Truth(0.87)]
    write_synthetic_study(folder, cells=cells, truths=truths, seeds=range(seeds))
    return load_study(folder)


def test_effects_are_contrasts_of_the_cells_of_each_seed(tmp_path: Path) -> None:
    study = _factorial_study(tmp_path)
    frame = measure_effects(study).set_index(["metric", "effect"]).loc["final_test_accuracy"]
    trials = summarize_trials(study)
    a, b, c, d = (
        trials[trials["cell_id"] == cell].sort_values("seed")["final_test_accuracy"].to_numpy() for cell in study.cells
    )
    contrasts = {
        "batch size 64 to 128": (c + d - a - b) / 2,
        "learning rate 0.15 to 0.2": (b + d - a - c) / 2,
        "batch size 64 to 128, at learning rate 0.2 less at 0.15": (d - b) - (c - a),
    }
    assert set(frame.index) == set(contrasts)
    for effect, values in contrasts.items():
        interval = stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / 3)
        row = frame.loc[effect]
        assert (row["value"], row["low"], row["high"]) == pytest.approx((values.mean(), interval.low, interval.high))


def test_effects_find_the_truth(tmp_path: Path) -> None:
    frame = measure_effects(_factorial_study(tmp_path, 20)).set_index(["metric", "effect"]).loc["final_test_accuracy"]
    for (_, row), truth in zip(frame.iterrows(), (-0.025, -0.035, -0.03), strict=True):
        assert row["value"] == pytest.approx(truth, abs=0.003)
        assert row["low"] < row["value"] < row["high"] < 0


def test_three_levels_and_three_factors() -> None:
    cells = [
        build_cell("", batch_size=b, learning_rate=lr, momentum=m)
        for b in (32, 64, 128)
        for lr in (0.1, 0.2)
        for m in (0.8, 0.9)
    ]
    effects = list_effects(cells, ["batch_size", "learning_rate", "momentum"])
    kinds = [effect.kind for effect in effects]
    assert kinds.count("main effect") == 2 + 1 + 1
    assert kinds.count("interaction") == 2 + 2 + 1
    # A metric that is batch size / 32 has that main effect, no other, and no interaction.
    metric = np.array([cell.config["batch_size"] / 32 for cell in cells])
    assert [round(float(metric @ effect.weights), 9) for effect in effects] == [1, 3, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("missing", [1, 2])
def test_an_incomplete_grid_has_no_effects(missing: int) -> None:
    cells = [build_cell("", batch_size=b, learning_rate=lr) for b in (64, 128) for lr in (0.15, 0.2)]
    assert list_effects(cells[:-missing], ["batch_size", "learning_rate"]) == []


def test_the_answer_never_contradicts_its_interval(tmp_path: Path) -> None:
    """Over studies of every kind: the sentence says better only beside an interval without 0, and names the better cell."""
    seen = set()
    for number, (gap, seeds) in enumerate([(0.0, 3), (0.002, 4), (0.01, 5), (0.0002, 20), (-0.01, 5), (0.01, 1)]):
        study = _study(tmp_path / str(number), [Truth(0.93), Truth(0.93 - gap)], seeds)
        row, said = compare_primary(study).loc[0], answer(study)
        seen.add(said.verdict)
        assert said.verdict == row["verdict"]
        if "better" in said.sentences[0]:
            best = "cell 0" if row["difference"] > 0 else "cell 1"
            assert said.sentences[0].startswith(f"{best} is better than")
            assert row["low"] > 0 or row["high"] < 0
        else:
            assert row["low"] <= 0 <= row["high"] or np.isnan(row["low"]) or row["verdict"] == "equivalent"
        assert any("few" in text or "luck" in text for text in said.sentences[1:]) == (seeds < 5)
    assert seen == {"different", "equivalent", "undecided"}


def test_of_many_cells_the_best_ones_come_first(tmp_path: Path) -> None:
    truths = [
        Truth(0.90, seed_sd=0.001),
        Truth(0.93, seed_sd=0.001),
        Truth(0.9301, seed_sd=0.001),
        Truth(0.91, seed_sd=0.001),
    ]
    study = _study(tmp_path, truths, 6)
    ranked = rank_cells(study)
    assert set(ranked.loc[ranked["may_be_best"], "label"]) == {"cell 1", "cell 2"}
    assert ranked["mean"].is_monotonic_decreasing
    assert list(ranked["label"])[2:] == ["cell 3", "cell 0"]
    assert (ranked["low"] <= ranked["behind"]).all()
    first = answer(study).sentences[0]
    assert "2 cells are worse than the best" in first
    assert {"cell 1", "cell 2"} == {name for name in ("cell 0", "cell 1", "cell 2", "cell 3") if name in first}


def test_of_a_loss_the_smallest_is_the_best(tmp_path: Path) -> None:
    study = _study(tmp_path, [Truth(0.95, seed_sd=0.001), Truth(0.80, seed_sd=0.001), Truth(0.7, seed_sd=0.001)], 5)
    study = Study(study.folder, dataclasses.replace(study.info, primary_metric="final_test_loss"))
    ranked = rank_cells(study)
    assert ranked["mean"].is_monotonic_increasing
    assert ranked["may_be_best"].tolist() == [True, False, False]
    assert (ranked.loc[1:, "low"] >= 0).all()
    pairs = compare_primary(study)
    assert set(pairs["metric"]) == {"final_test_loss"}
    assert "nats" in answer(study).sentences[0]


def test_hypotheses_are_told_by_cells_that_agree(tmp_path: Path) -> None:
    """Accuracy that depends on the learning rate alone: batch size and ratio are refuted, the learning rate is not."""
    cells = [
        build_cell(f"{b} {lr}", batch_size=b, learning_rate=lr, epochs=2, instrument_every_steps=0, log_every_steps=500)
        for b in (64, 128) for lr in (0.1, 0.2)
    ]  # fmt: skip
    write_synthetic_study(
        tmp_path, cells=cells, truths=[Truth(0.93, seed_sd=0.0005), Truth(0.90, seed_sd=0.0005)], seeds=range(12)
    )
    study = load_study(tmp_path)
    frame = judge_hypotheses(study, find_confounds(cells, ["batch_size", "learning_rate"], 50_000)).set_index(
        "quantity"
    )
    assert frame["verdict"].to_dict() == {
        "batch size": "refuted", "learning rate": "supported", "learning rate / batch size": "refuted",
        "number of updates": "refuted",
    }  # fmt: skip
    # Of four means 0.90, 0.93, 0.90, 0.93 the ratio joins the first of one batch size with the second of the other.
    assert frame["explained"].to_dict() == pytest.approx(
        {"batch size": 0, "learning rate": 1, "learning rate / batch size": 0.5, "number of updates": 0}, abs=0.02
    )


def test_a_study_that_looked_repeatedly_has_wider_intervals(tmp_path: Path) -> None:
    study = _study(tmp_path, [Truth(), Truth(0.92)], 6)
    looking = Study(study.folder, dataclasses.replace(study.info, stopping={"first": 3, "most": 12}))
    once, often = compare_primary(study).loc[0], compare_primary(looking).loc[0]
    assert often["low"] < once["low"] < once["difference"] == often["difference"]
    assert "look at every number of seeds" in " ".join(build_tables(looking, ["pairwise"])["pairwise"].notes)
