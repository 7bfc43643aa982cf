"""Where the variance comes from: splits with closed forms, plain loops beside them, a trained study, and studies with gaps."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from analysis.comparison.tested_images import (
    agreement_between,
    agreement_within,
    compare_images,
    measure_cells,
    measure_pairs,
    read_correct_images,
    split_variance,
)
from analysis.drawing.style import NothingToDraw
from analysis.figures import telling_images
from analysis.records.frames import Study, load_study
from analysis.records.image_files import read_telling_images, read_test_labels
from analysis.records.study_folder import StudyFolderError
from analysis.results.formats import format_rows
from analysis.tables import build_tables, table_kinds
from study.folder.model_and_samples import write_samples, write_telling_images
from tests.support.images import make_image_data
from tests.support.studies import build_cell
from tests.unit.analysis.figure_studies import rewrite, write_small_study
from tests.unit.analysis.figure_texts import find_drawn_texts, find_overlaps
from trainable.config import TrialConfig
from trainable.data.data_set import split_data

NUM_IMAGES, SEEDS = 50, (0, 1, 2)


def record(study: Study, correct: dict[str, np.ndarray]) -> Study:
    """The study whose trials got these images right in their last epochs."""
    epochs = study.folder.read_records("epochs").to_pylist()
    last = {trial: max(row["epoch"] for row in epochs if row["trial_id"] == trial) for trial in correct}
    bits = [
        np.packbits(correct[row["trial_id"]]).tobytes() if row["epoch"] == last.get(row["trial_id"]) else None for row in epochs
    ]  # fmt: skip
    rewrite(study.folder, "epochs", test_correct=pa.array(bits, pa.binary()))
    return load_study(study.folder)


def write_study(folder: Path, rates: tuple[float, ...] = (0.9, 0.7), limit: int | None = None, num_test: int = NUM_IMAGES) -> tuple[Study, dict[str, np.ndarray]]:  # fmt: skip
    """A study whose cells get images right at these rates, and what each trial got right; its data are `make_image_data`."""
    cells = [
        build_cell(f"cell {n}", dataset="synthetic", learning_rate=0.1 + n / 100, epochs=2, instrument_every_steps=0, test_limit=limit)
        for n in range(len(rates))
    ]  # fmt: skip
    study = write_small_study(folder, cells=cells, seeds=SEEDS, data={"num_test": num_test})
    random = np.random.default_rng(0)
    rate = dict(zip(study.cells, rates, strict=True))
    correct = {
        trial["trial_id"]: random.random(limit or num_test) < rate[trial["cell_id"]] for trial in study.trials.to_dict("records")
    }  # fmt: skip
    return record(study, correct), correct


def test_independent_images_leave_nothing_between_trainings() -> None:
    """Each image is right with its own probability whatever the training: the variance is sum p (1 - p) / N^2, all of the test set."""
    random = np.random.default_rng(1)
    rates = random.random(400)
    splits = [split_variance(random.random((5, 400)) < rates) for _ in range(2000)]
    expected = (rates * (1 - rates)).sum() / 400**2
    found = np.array([(split.total, split.test_set, split.trainings) for split in splits])
    errors = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - [expected, expected, 0]) < 4 * errors).all()
    assert (found[:, 2] < 0).any(), "an unbiased estimate of 0 is negative now and then"
    covered = np.mean([split.low <= 0 <= split.high for split in splits])
    assert 0.93 < covered < 0.97


def test_a_common_ability_of_a_training_is_found_again() -> None:
    """Trainings whose rate is 0.7 or 0.9 by chance have a standard deviation of 0.1, however few images it is seen through."""
    random = np.random.default_rng(2)
    for images in (20, 2000):
        ability = random.choice([0.7, 0.9], size=(2000, 6, 1))
        found = np.array([split_variance(random.random((6, images)) < own).trainings for own in ability])
        assert abs(found.mean() - 0.01) < 4 * found.std() / np.sqrt(len(found))


def test_the_split_is_the_mean_covariance_of_two_images() -> None:
    correct = np.random.default_rng(3).random((4, 12)) < 0.6
    covariance = np.cov(correct.T.astype(float))
    split = split_variance(correct)
    assert split.trainings == pytest.approx(covariance[~np.eye(12, dtype=bool)].mean())
    assert split.total == pytest.approx(correct.mean(axis=1).var(ddof=1))
    assert split.total == pytest.approx(split.test_set + split.trainings)
    assert split.low < split.trainings < split.high
    assert np.isnan([split_variance(correct[:1]).total, split_variance(correct[:, :1]).trainings]).all()


def test_agreement_is_that_of_every_pair() -> None:
    random = np.random.default_rng(4)
    a, b = random.random((4, 30)) < 0.8, random.random((3, 30)) < 0.5
    assert agreement_within(a) == pytest.approx(np.mean([(x == y).mean() for x, y in itertools.combinations(a, 2)]))
    assert agreement_between(a, b) == pytest.approx(np.mean([(x == y).mean() for x in a for y in b]))
    assert np.isnan(agreement_within(a[:1]))


def test_rows_of_cells_and_pairs_follow_the_records(tmp_path: Path) -> None:
    study, correct = write_study(tmp_path, (0.9, 0.7, 0.5))
    of_cell = {
        cell: np.stack([correct[trial] for trial in own["trial_id"]]) for cell, own in study.trials.groupby("cell_id")
    }
    for row in measure_cells(study).to_dict("records"):
        own = of_cell[row["cell_id"]]
        assert (row["seeds"], row["images"]) == (3, NUM_IMAGES)
        assert (row["accuracy"], row["sd"]) == pytest.approx((own.mean(), own.mean(axis=1).std(ddof=1)))
        others = [agreement_between(own, other) for cell, other in of_cell.items() if cell != row["cell_id"]]
        assert row["agreement_others"] == pytest.approx(np.mean(others))
    pairs = measure_pairs(study)
    assert len(pairs) == 3
    for row in pairs.to_dict("records"):
        a, b = of_cell[row["cell_a"]].astype(float), of_cell[row["cell_b"]].astype(float)
        assert row["difference"] == pytest.approx(a.mean() - b.mean())
        assert row["error_images"] == pytest.approx((a.mean(axis=0) - b.mean(axis=0)).std(ddof=1) / NUM_IMAGES**0.5)
        assert row["error_seeds"] == pytest.approx((a.mean(axis=1) - b.mean(axis=1)).std(ddof=1) / 3**0.5)


def test_a_cell_without_trainings_has_nothing_and_warns_of_nothing(tmp_path: Path) -> None:
    """As in a study that is half done."""
    study, correct = write_study(tmp_path)
    first, second = study.cells
    of_first = set(study.trials.loc[study.trials["cell_id"] == first, "trial_id"])
    half = record(study, {trial: images for trial, images in correct.items() if trial in of_first})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = measure_cells(half).set_index("cell_id")
    assert rows.loc[[first, second], "seeds"].tolist() == [3, 0]
    assert rows["agreement_others"].isna().all()


def test_tables_say_what_is_missing(tmp_path: Path) -> None:
    study, correct = write_study(tmp_path)
    _, second, *others = correct
    gaps = record(study, {second: np.ones(9, dtype=bool), **{trial: correct[trial] for trial in others}})
    table = build_tables(gaps, ["test_variance"])["test_variance"]
    assert sorted(table.frame["seeds"]) == [1, 3]
    notes = " ".join(table.notes)
    assert "1 of 6 completed trials do not say which test images they got right" in notes
    assert "1 of 6 completed trials were tested on other images than these 50" in notes
    shown = format_rows(table)[1]
    assert shown[0][-3] == "-", "one training has no spread"
    assert any("none to be seen" in row or "points" in " ".join(row) for row in shown[1:])
    classes = build_tables(gaps, ["per_class"])["per_class"]
    assert classes.frame.empty
    assert "were not kept: an older study" in " ".join(classes.notes)
    older = load_study(write_small_study(tmp_path / "older").folder)
    ours = {name: kind for name, kind in table_kinds().items() if kind.section == "variance"}
    assert set(ours) == {"test_variance", "pairs_by_image", "per_class"}
    assert not any(kind.applies(older) for kind in ours.values())
    for table in build_tables(older, list(ours)).values():
        assert "No completed trial says which test images it got right" in " ".join(table.notes)


def test_trials_on_changed_data_are_left_out(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    rewrite(study.folder, "trials", data_fingerprint=pa.array(["d" * 16] * 5 + ["e" * 16]))
    tested = read_correct_images(load_study(tmp_path))
    assert sorted(map(len, tested.correct.values())) == [2, 3]
    assert "1 of 6 completed trials were tested on other images" in tested.gaps[0]


@pytest.mark.parametrize("limit", [None, 23])
def test_classes_are_those_of_the_tested_images(tmp_path: Path, limit: int | None) -> None:
    """The trials got exactly the images of class 3 wrong: so says the table, whichever images a limit leaves."""
    data = make_image_data(num_test=47)
    study, correct = write_study(tmp_path, limit=limit, num_test=47)
    labels = split_data(data, TrialConfig(batch_size=1, test_limit=limit)).test.labels
    study = record(study, dict.fromkeys(correct, labels != 3))
    study.folder.samples.unlink()
    write_samples(study.folder, data)
    assert read_test_labels(study.folder) is None
    write_samples(study.folder, data, study.info)
    frame = build_tables(study, ["per_class"])["per_class"].frame
    assert len(frame) == 2 * 10
    wrong = frame["class_name"] == "class 3"
    assert frame.loc[wrong, "accuracy"].tolist() == [0, 0]
    assert frame.loc[~wrong, "accuracy"].eq(1).all()
    assert frame["images"].sum() == 2 * len(labels)
    before = study.folder.samples.stat().st_mtime_ns
    write_samples(study.folder, data, study.info)
    assert study.folder.samples.stat().st_mtime_ns == before, "they are written once"


def test_intervals_of_classes_are_over_seeds(tmp_path: Path) -> None:
    study, correct = write_study(tmp_path)
    data = make_image_data()
    write_samples(study.folder, data, study.info)
    frame = build_tables(study, ["per_class"])["per_class"].frame
    row = frame.iloc[0]
    own = study.trials.loc[study.trials["cell_id"] == row["cell_id"], "trial_id"]
    values = np.array([correct[trial][data.test_labels == 0].mean() for trial in own])
    reach = 4.302652729911275 * values.std(ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
    ends = max(values.mean() - reach, 0), min(values.mean() + reach, 1)
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((values.mean(), *ends))
    assert frame["label"].unique().tolist() == ["cell 0", "cell 1"]
    assert ((frame["low"] >= 0) & (frame["high"] <= 1)).all()
    assert ((frame["low"] > 0) & (frame["high"] < 1)).any(), "not all are cut off"


@pytest.mark.parametrize("limit", [None, 40])
def test_telling_images_are_those_that_one_cell_knows(tmp_path: Path, limit: int | None) -> None:
    """Of three cells the best knows every image, the worst all but three, one of them in a single seed."""
    data = make_image_data()
    study, correct = write_study(tmp_path, (0.9, 0.8, 0.7), limit=limit)
    split = split_data(data, TrialConfig(batch_size=1, test_limit=limit)).test
    known = {trial: np.ones(len(split.labels), dtype=bool) for trial in correct}
    ranked = sorted(study.cells, key=lambda cell: _accuracy(study, cell))
    trials = study.trials.loc[study.trials["cell_id"] == ranked[0], "trial_id"].tolist()
    for trial in trials:
        known[trial][[7, 31]] = False
    known[trials[0]][11] = False
    study = record(study, known)
    write_samples(study.folder, data, study.info)
    write_telling_images(study.folder, data)
    kept = read_telling_images(study.folder)
    assert kept is not None
    assert kept[0].tolist() == [7, 31, 11]
    assert (kept[1] == split.images[[7, 31, 11]]).all()
    built = telling_images.build_telling_images(study)
    assert [study.cells[ranked[n]].label for n in (-1, 0)] == [label for _, label in built.labels]
    assert built.rows["share_a"].tolist() == [1, 1, 1]
    assert built.rows["share_b"].tolist() == pytest.approx([0, 0, 2 / 3])
    assert built.rows["class_name"].tolist() == [f"class {split.labels[i]}" for i in (7, 31, 11)]


def _accuracy(study: Study, cell: str) -> float:
    last = (
        study.epochs.sort_values("epoch")
        .drop_duplicates("trial_id", keep="last")
        .set_index("trial_id")["test_accuracy"]
    )
    return float(last[study.trials.loc[study.trials["cell_id"] == cell, "trial_id"]].mean())


def test_the_figure_is_readable_and_says_why_it_is_missing(tmp_path: Path) -> None:
    study, _ = write_study(tmp_path)
    with pytest.raises(NothingToDraw, match="were not kept"):
        telling_images.build_telling_images(study)
    data = make_image_data()
    write_samples(study.folder, data, study.info)
    write_telling_images(study.folder, data)
    assert study.folder.telling_images.stat().st_size < 100_000
    compared = compare_images(study)
    assert compared is not None
    built = telling_images.build_telling_images(study)
    difference = (built.rows["share_a"] - built.rows["share_b"]).abs().to_numpy()
    everywhere = np.sort(np.abs(compared.shares[0] - compared.shares[1]))[::-1]
    assert difference.tolist() == everywhere[: len(difference)].tolist()
    figure = telling_images.draw_telling_images(built)
    assert not find_overlaps(find_drawn_texts(figure))
    grey = (
        telling_images.draw_telling_images(replace(built, images=built.images[..., :1])).axes[0].images[0].get_array()
    )
    assert np.array_equal(np.asarray(grey), np.repeat(built.images[0, ..., :1], 3, axis=2))
    np.savez(study.folder.telling_images, indices=np.array([NUM_IMAGES]), images=np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(NothingToDraw, match="not of this test set"):
        telling_images.build_telling_images(study)
    assert not list(telling_images.FIGURE.subjects(load_study(write_small_study(tmp_path / "older").folder)))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"indices": np.array([0.5]), "images": np.zeros((1, 32, 32, 3), np.uint8)}, "places are no numbers"),
        ({"indices": np.array([0]), "images": np.zeros((2, 32, 32, 3), np.uint8)}, "places for images of shape"),
        ({"indices": np.array([{}]), "images": np.zeros((1, 32, 32, 3), np.uint8)}, "cannot be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    study = write_small_study(tmp_path)
    np.savez(study.folder.telling_images, **arrays)  # type: ignore[arg-type]
    with pytest.raises(StudyFolderError, match=said):
        read_telling_images(study.folder)
    kept = study.folder.read_samples()
    assert kept is not None
    np.savez(study.folder.samples, images=kept[0], class_names=np.array(kept[1]), test_labels=np.array([10], np.uint8))
    with pytest.raises(StudyFolderError, match="not the numbers of 10 classes"):
        read_test_labels(study.folder)
