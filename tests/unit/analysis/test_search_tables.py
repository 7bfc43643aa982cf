"""The tables of a search against independent computations, and that a search changes no other table."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pyarrow.compute as pc
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from scipy import stats

from analysis.drawing.layer_records import summarise_layers
from analysis.drawing.selection import select_cells
from analysis.records.frames import Study, load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.records.summary import summarize_trials
from analysis.search import importances
from analysis.search.dynamics import measure_dynamics
from analysis.search.history import Search, load_search
from analysis.search.importances import (
    COLUMNS,
    FEWEST_TRIALS,
    NUM_RESAMPLES,
    _fanova,
    _measure,
    common_epoch,
    load_importances,
)
from analysis.search.winners import compare_contenders, list_contenders
from analysis.tables import build_tables
from tests.support.search_studies import NUM_EPOCHS, PUBLISHED, write_search_study

SEEDS = (100, 101, 102)

SEARCH_TABLES = ("search_winners", "search_importances", "search_trials")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(write_search_study(tmp_path_factory.mktemp("study") / "made"))


@pytest.fixture(scope="module")
def search(study: Study) -> Search:
    return load_search(study)


@pytest.fixture(scope="module")
def theirs(study: Study, tmp_path_factory: pytest.TempPathFactory) -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna itself reads them, from a copy."""
    copy = tmp_path_factory.mktemp("copy") / "search.journal"
    copy.write_bytes(study.folder.search_journal.read_bytes())
    return optuna.load_study(study_name="made", storage=JournalStorage(JournalFileBackend(str(copy)))).trials


def completed(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]


def test_every_trial_has_its_row(study: Study, theirs: list[optuna.trial.FrozenTrial]) -> None:
    frame = build_tables(study, ["search_trials"])["search_trials"].frame
    searched = frame[frame["role"] == "search"]
    words = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "diverged"}
    assert len(searched) == len(theirs)
    for row, trial in zip(searched.to_dict("records"), theirs, strict=True):
        assert row["number"] == trial.number
        assert row["config.learning_rate"] == trial.params["learning_rate"]
        assert row["config.batch_size"] == trial.params["batch_size"]
        assert row["status"] == words[trial.state.name]
        assert row["source"] == ("enqueued" if trial.number < len(PUBLISHED) else "sampled")
        assert row["epochs"] == len(trial.intermediate_values)
        assert row["seconds"] == 10.0 * row["epochs"]
        if trial.state == optuna.trial.TrialState.COMPLETE:
            assert row["objective_1"] == trial.value
        else:
            assert math.isnan(row["objective_1"])
            assert row["reason"] == trial.user_attrs["reason"]
    confirmations = frame[frame["role"] == "confirmation"]
    assert set(confirmations["trial_id"]) == set(study.trials["trial_id"])
    assert len(confirmations) == len(study.info.cells) * len(SEEDS)


def test_the_head_of_the_table_counts_what_was_spent(study: Study, theirs: list[optuna.trial.FrozenTrial]) -> None:
    note = build_tables(study, ["search_trials"])["search_trials"].notes[1]
    used = sum(len(trial.intermediate_values) for trial in theirs)
    assert f"{len(completed(theirs))} completed" in note
    assert f"{used:,} epochs of {len(theirs) * NUM_EPOCHS:,} that all of them would have taken" in note


def test_a_search_changes_no_other_table(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other tables are those of the same folder without a search and without its trials."""
    monkeypatch.setattr(importances, "NUM_RESAMPLES", 3)  # importances take seconds, and are not what is compared
    bare = StudyFolder(tmp_path / "bare")
    bare.path.mkdir()
    bare.write_study(dataclasses.replace(study.info, search=None))
    searched = set(study.search_trials["trial_id"])
    assert searched
    for kind in ("trials", "epochs", "steps", "layers"):
        table = study.folder.read_records(kind)
        keep = [trial not in searched for trial in table["trial_id"].to_pylist()]
        assert not all(keep)
        bare.write_records(kind, table.filter(keep))
    bare.write_records("model", study.folder.read_records("model"))
    without, with_search = build_tables(load_study(bare)), build_tables(load_study(study.folder))
    assert set(with_search) - set(without) == set(SEARCH_TABLES)
    assert [name for name in with_search if name not in SEARCH_TABLES] == list(without)
    for name, table in without.items():
        pd.testing.assert_frame_equal(table.frame, with_search[name].frame, obj=name)
        assert table.notes == with_search[name].notes
    summaries = [
        summarise_layers(s, select_cells(s.info, s.trials)).by_group
        for s in (load_study(bare), load_study(study.folder))
    ]
    assert len(summaries[0]) == len(summaries[1]) == 0


def test_claims_over_all_cells_leave_searched_layers_out(study: Study) -> None:
    """A query over several cells reads the layer file whole only where it holds their trials alone."""
    from analysis.claims.measures import Measurements

    cells = tuple(cell.cell_id for cell in study.info.cells)
    assert len(study.read_layers(["trial_id"])) > 0
    assert len(Measurements(study, ())._layers_of(cells, "update_ratio")) == 0


def test_winners_are_the_best_by_validation_and_tested_by_the_confirmations(
    study: Study, search: Search, theirs: list[optuna.trial.FrozenTrial]
) -> None:
    best = sorted(completed(theirs), key=lambda trial: -float(trial.value or 0))[:2]
    frame = compare_contenders(search)
    winners = frame[frame["what"].str.startswith("winner")]
    assert list(dict.fromkeys(winners["number"])) == [trial.number for trial in best]
    accuracy = summarize_trials(study).pivot(index="seed", columns="cell_id", values="final_test_accuracy")
    published = study.info.cells[: len(PUBLISHED)]
    raw_p = []
    for row in winners.to_dict("records"):
        trial = best[0] if row["what"] == "winner 1" else best[1]
        cell = next(c for c in study.info.cells if c.config["learning_rate"] == trial.params["learning_rate"])
        values = accuracy[cell.cell_id].loc[list(SEEDS)]
        assert row["searched"] == trial.value
        assert row["test_mean"] == pytest.approx(values.mean())
        assert row["test_sd"] == pytest.approx(values.std())
        assert row["shrinkage"] == pytest.approx(trial.values[0] - values.mean())
        other = next(c for c in published if c.label == row["against"])
        test = stats.ttest_rel(values, accuracy[other.cell_id].loc[list(SEEDS)])
        interval = test.confidence_interval(1 - 0.05 / len(winners))
        assert row["difference"] == pytest.approx((values - accuracy[other.cell_id]).mean())
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        raw_p.append(float(test.pvalue))
    assert winners["p"].to_numpy() == pytest.approx(np.minimum(np.array(raw_p) * len(raw_p), 1))
    assert set(frame.loc[frame["what"] == "published", "number"]) == {0, 1}
    assert (winners["common_seeds"] == 3).all()


def test_the_luck_of_a_choice_is_seen(tmp_path: Path) -> None:
    """With noise alone between trials the winner was lucky: it loses more than the published ones, which nobody chose."""
    folder = write_search_study(tmp_path / "noisy", noise=0.05, num_trials=30, top_k=1)
    search = load_search(load_study(folder))
    frame = compare_contenders(search).drop_duplicates("number")
    lost = frame.set_index("what")["shrinkage"]
    assert lost["winner 1"] > 0.04
    assert lost["winner 1"] > lost["published"].mean() + 0.02


def test_winners_that_are_not_confirmed_yet_say_so(tmp_path: Path) -> None:
    search = load_search(load_study(write_search_study(tmp_path / "running", confirmed=False, num_trials=12)))
    frame = compare_contenders(search)
    assert set(frame.loc[frame["against"] != "", "verdict"]) == {"not confirmed yet"}
    assert frame["test_mean"].isna().all()
    assert frame["seeds"].eq(0).all()


def test_winners_of_two_objectives_are_of_the_front(tmp_path: Path) -> None:
    study = load_study(write_search_study(tmp_path / "two", objectives=("val_accuracy", "train_flops"), top_k=3))
    done = load_search(study).completed
    pairs = list(zip(done["number"], done["objective_1"], done["objective_2"], strict=True))
    front = [
        (number, accuracy) for number, accuracy, flops in pairs
        if not any(a >= accuracy and f <= flops and (a > accuracy or f < flops) for _, a, f in pairs)
    ]  # fmt: skip
    best = [number for number, _ in sorted(front, key=lambda entry: -entry[1])[:3]]
    assert [c.number for c in list_contenders(load_search(study)) if c.rank] == best


def test_dynamics_are_those_of_the_early_epochs(search: Search, theirs: list[optuna.trial.FrozenTrial]) -> None:
    """Of 5 epochs the first is early; what the made study wrote for it follows formulas."""
    found = measure_dynamics(search)
    for trial in theirs:
        row = found.loc[trial.number]
        assert row["noise_scale"] == pytest.approx(500 * (1 + trial.number % 7))
        assert row["update_ratio"] == pytest.approx(0.1 * trial.params["learning_rate"], rel=1e-6)
        assert row["angular_update"] == pytest.approx(0.2 * math.sqrt(trial.params["learning_rate"]), rel=1e-6)
        assert row["gradient_l2"] == pytest.approx(100 / trial.params["batch_size"])


def test_a_search_without_instruments_has_all_its_tables(tmp_path: Path) -> None:
    """`instrument_every_steps = 0`: no layer records at all."""
    folder = write_search_study(tmp_path / "bare", num_trials=10)
    folder.write_records("layers", folder.read_records("layers").slice(0, 0))
    study = load_study(folder)
    found = measure_dynamics(load_search(study))
    assert found["update_ratio"].isna().all()
    assert found["gradient_l2"].notna().any()
    tables = build_tables(study)
    assert "update_ratio" not in set(tables["search_importances"].frame["quantity"])
    assert set(SEARCH_TABLES) <= set(tables)


def test_importances_find_what_the_formula_is_made_of(search: Search, theirs: list[optuna.trial.FrozenTrial]) -> None:
    rows = {(row["kind"], row["target"], row["quantity"]): row for row in load_importances(search).to_dict("records")}
    done = completed(theirs)
    final = {name: rows["hyperparameters", "final value", name] for name in ("learning_rate", "batch_size", "momentum")}
    assert all(row["trials"] == len(done) for row in final.values())
    assert max(final, key=lambda name: final[name]["importance"]) == "learning_rate"
    assert final["learning_rate"]["above_chance"]
    assert not final["momentum"]["above_chance"]
    assert all(row["low"] <= row["importance"] <= row["high"] for row in rows.values())
    values = [trial.value for trial in done]
    expected = stats.spearmanr([trial.params["learning_rate"] for trial in done], values)
    assert final["learning_rate"]["rank_correlation"] == pytest.approx(expected.statistic)
    ratio = rows["training dynamics", "final value", "update_ratio"]
    assert ratio["rank_correlation"] == pytest.approx(expected.statistic)  # it follows the rate
    at_once = rows["training dynamics", "value after epoch 1", "update_ratio"]
    assert at_once["trials"] == sum(1 in trial.intermediate_values for trial in theirs)
    reached = [trial for trial in theirs if 1 in trial.intermediate_values]
    assert rows["hyperparameters", "value after epoch 1", "learning_rate"]["trials"] == len(reached)
    assert common_epoch(search) == 1


def test_importances_are_the_shares_of_variance() -> None:
    """y = 2a + b over uniform a and b: the variance is 4 parts a, one part b, and c does nothing."""
    random = np.random.default_rng(1)
    frame = pd.DataFrame({name: random.uniform(0, 1, 100) for name in "abc"})
    rows = _measure(
        ("hyperparameters", "final value"), frame, dict.fromkeys("abc", "linear"), 2 * frame["a"] + frame["b"]
    )
    shares = dict(zip(rows["quantity"], rows["importance"], strict=True))
    above = dict(zip(rows["quantity"], rows["above_chance"], strict=True))
    assert shares["a"] == pytest.approx(0.8, abs=0.08)
    assert shares["b"] == pytest.approx(0.2, abs=0.08)
    assert shares["c"] < 0.02
    assert above["a"]
    assert not above["c"]


def test_chance_is_what_the_same_forest_finds_in_a_shuffled_objective() -> None:
    random = np.random.default_rng(2)
    frame = pd.DataFrame({name: random.uniform(0, 1, 20) for name in "ab"})
    target = frame["a"] + random.normal(0, 0.1, 20)
    rows = _measure(("k", "t"), frame, dict.fromkeys("ab", "linear"), target).set_index("quantity")
    space = {name: FloatDistribution(float(frame[name].min()), float(frame[name].max())) for name in "ab"}
    values, shuffles = target.to_numpy(), np.random.default_rng(0)
    shuffled = []
    for seed in range(NUM_RESAMPLES):
        shuffles.integers(0, 20, 20)  # the draw of resampled trials
        shuffled.append(_fanova(frame, space, shuffles.permutation(values), seed))
    assert rows.loc[["a", "b"], "importance"].to_numpy() == pytest.approx(_fanova(frame, space, values, 0))
    assert rows.loc[["a", "b"], "chance"].to_numpy() == pytest.approx(np.percentile(shuffled, 95, axis=0))
    assert rows["above_chance"].tolist() == (rows["importance"] > rows["chance"]).tolist()


def test_the_table_says_what_its_intervals_are(study: Study) -> None:
    table = build_tables(study, ["search_importances"])["search_importances"]
    assert any("widened where that misses the importance itself" in note for note in table.notes)


def test_noise_alone_is_not_above_chance() -> None:
    """Of 9 importances of pure noise, by twenty trials, hardly one is above its 95 % point."""
    found = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        frame = pd.DataFrame({name: random.uniform(0, 1, 20) for name in "abc"})
        target = pd.Series(random.normal(size=20))
        found += list(_measure(("k", "t"), frame, dict.fromkeys("abc", "linear"), target)["above_chance"])
    assert len(found) == 9
    assert sum(found) <= 3


def test_texts_flags_and_choices_have_importances_too() -> None:
    random = np.random.default_rng(0)
    kinds = random.choice(["bf16", "fp32"], 60)
    frame = pd.DataFrame({"precision": kinds, "limit": [None if k else 100 for k in random.integers(0, 2, 60)]})
    target = pd.Series((kinds == "bf16") + random.normal(0, 0.05, 60))
    rows = _measure(("k", "t"), frame, {"precision": "choices", "limit": "choices"}, target)
    assert list(rows["quantity"]) == ["precision", "limit"]
    assert rows["importance"].iloc[0] > 0.9
    assert rows["rank_correlation"].isna().all()


def test_too_few_trials_have_no_importances(tmp_path: Path) -> None:
    study = load_study(write_search_study(tmp_path / "few", num_trials=4, confirmed=False))
    assert list(load_importances(load_search(study)).columns) == list(COLUMNS)
    table = build_tables(study, ["search_importances"])["search_importances"]
    assert table.frame.empty
    assert f"Fewer than {FEWEST_TRIALS} completed trials" in table.notes[-1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"objective": 5}, "objective 5: give one name"),
        ({"objective": ["val_accuracy", "train_flops"]}, "has 1 objectives, study.json 2"),
        ({"space": {}}, "space: is empty"),
        ({"space": {"learning_rat": {}}}, "did you mean learning_rate"),
        ({"space": {"learning_rate": 5}}, "space.learning_rate 5: give { choices"),
        ({"top_k": -1}, "top_k -1: should be greater than or equal to 1"),
        ({"enqueued": [5]}, "enqueued.0 5: should be a valid table"),
    ],
)
def test_a_foreign_description_is_one_line(study: Study, tmp_path: Path, change: dict[str, object], named: str) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_study(dataclasses.replace(study.info, search={**(study.info.search or {}), **change}))
    folder.search_journal.write_bytes(study.folder.search_journal.read_bytes())
    folder.write_records("trials", study.folder.read_records("trials"))
    with pytest.raises(StudyFolderError, match=named) as caught:
        build_tables(folder, ["search_trials"])
    assert len(str(caught.value).splitlines()) == 1


def test_searched_trials_without_records_are_still_listed(study: Study, tmp_path: Path) -> None:
    """A journal is ahead of the records while a search runs."""
    folder = StudyFolder(tmp_path / "made")
    folder.path.mkdir()
    folder.write_study(study.info)
    folder.search_journal.write_bytes(study.folder.search_journal.read_bytes())
    trials = study.folder.read_records("trials")
    folder.write_records("trials", trials.filter(pc.not_equal(trials["role"], "search")))
    frame = build_tables(folder, ["search_trials"])["search_trials"].frame
    full = build_tables(study, ["search_trials"])["search_trials"].frame
    for column in ("number", "config.learning_rate", "objective_1", "epochs", "trial_id"):
        pd.testing.assert_series_equal(frame[column], full[column])


def test_a_study_without_search_has_none_of_these_tables(tmp_path: Path, study: Study) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_study(dataclasses.replace(study.info, search=None))
    folder.write_records("trials", study.folder.read_records("trials"))
    with pytest.raises(ValueError, match="has no search"):
        build_tables(folder, ["search_winners"])
