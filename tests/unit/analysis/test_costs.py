"""Costs and FLOPs against plain Python, the worksheet's totals, and a case in which the axis changes the conclusion."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.records.frames import Study, load_study
from analysis.tables.compute import build_flops, measure_compute, measure_flops
from analysis.tables.costs import build_cost_flips, compare_axes, measure_costs
from tests.support.studies import Truth, build_cell, paper_cells, write_synthetic_study

TRAINING_FLOPS = 3_328_997_376  # per image, worksheet.md section 4


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("studies") / "costs"
    truths = [Truth(0.93, seed_sd=0.02, images_per_s=20_000), Truth(0.90, seed_sd=0.02, images_per_s=30_000)]
    write_synthetic_study(folder, cells=paper_cells(instrument_every_steps=0), seeds=range(4), truths=truths)
    return load_study(folder)


def test_costs_are_those_of_the_first_epoch_that_is_good_enough(study: Study) -> None:
    trials = {t["trial_id"]: t for t in study.folder.read_records("trials").to_pylist()}
    epochs = study.folder.read_records("epochs").to_pylist()
    for row in measure_costs(study).to_dict("records"):
        found: dict[str, list[float]] = {axis: [] for axis in ("epochs", "steps", "flops", "seconds")}
        own = [trial for trial in trials.values() if trial["cell_id"] == row["cell_id"]]
        for trial in own:
            of_trial = [e for e in epochs if e["trial_id"] == trial["trial_id"]]
            reached = [e for e in of_trial if e["test_accuracy"] >= row["accuracy"]]
            if not reached:
                continue
            epoch = min(e["epoch"] for e in reached)
            steps = epoch * (50_000 // trial["config.batch_size"])
            found["epochs"].append(epoch)
            found["steps"].append(steps)
            found["flops"].append(TRAINING_FLOPS * steps * trial["config.batch_size"])
            found["seconds"].append(sum(e["train_time_s"] for e in of_trial if e["epoch"] <= epoch))
        assert (row["seeds"], row["reached"]) == (len(own), len(found["epochs"]))
        for axis, values in found.items():
            if len(values) < len(own):
                assert np.isnan(row[f"{axis}_mean"])
                continue
            assert row[f"{axis}_mean"] == pytest.approx(statistics.mean(values))
            error = stats.sem(values)
            if error > 0:
                low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
                assert (row[f"{axis}_low"], row[f"{axis}_high"]) == pytest.approx((low, high))


def test_accuracies_that_only_some_seeds_reach_have_no_cost(study: Study) -> None:
    frame = measure_costs(study)
    partly = frame[frame["reached"] < frame["seeds"]]
    assert len(partly) > 0
    assert partly[["epochs_mean", "steps_mean", "flops_mean", "seconds_mean"]].isna().all(axis=None)


def test_a_conclusion_that_flips_with_the_axis(tmp_path: Path) -> None:
    """The larger batch needs more epochs, and so more FLOPs, but fewer steps and less time."""
    truths = [
        Truth(0.93, epoch1_test_accuracy=0.30, seed_sd=0.0001, images_per_s=10_000),
        Truth(0.905, epoch1_test_accuracy=0.30, seed_sd=0.0001, images_per_s=30_000),
    ]
    write_synthetic_study(tmp_path, cells=paper_cells(instrument_every_steps=0), seeds=range(3), truths=truths)
    study = load_study(tmp_path)
    flips = compare_axes(study).query("flips")
    first, second = study.cells
    found = {
        (r["axis_a"], r["axis_b"]): (r["cell_a"], r["cell_b"])
        for r in flips[flips["accuracy"] == 0.9].to_dict("records")
    }
    assert found == {
        ("epochs", "steps"): (first, second),
        ("epochs", "seconds"): (first, second),
        ("steps", "flops"): (second, first),
        ("flops", "seconds"): (first, second),
    }
    table = build_cost_flips(study)
    assert set(table.frame["label_a"]) == {"Experiment 1", "Experiment 2"}


def test_equal_cells_flip_nothing(tmp_path: Path) -> None:
    cells = [build_cell(name, momentum=m, instrument_every_steps=0) for name, m in (("a", 0.8), ("b", 0.9))]
    write_synthetic_study(tmp_path, cells=cells, seeds=[0], truths=[Truth(seed_sd=0.0)])
    table = build_cost_flips(load_study(tmp_path))
    assert table.frame.empty
    assert table.notes[-1] == "No conclusion flips with the axis."


def test_a_difference_that_is_the_same_for_all_seeds_is_supported(tmp_path: Path) -> None:
    """Whole epochs often differ by the same number: without spread the interval is that number."""
    truths = [
        Truth(0.93, epoch1_test_accuracy=0.30, seed_sd=0.0, images_per_s=10_000),
        Truth(0.905, epoch1_test_accuracy=0.30, seed_sd=0.0, images_per_s=30_000),
    ]
    for seeds, supported in (([0, 1, 2], True), ([0], False)):
        folder = tmp_path / str(len(seeds))
        write_synthetic_study(folder, cells=paper_cells(instrument_every_steps=0), seeds=seeds, truths=truths)
        flips = compare_axes(load_study(folder)).query("flips")
        assert len(flips) > 0
        assert (flips["supported"] == supported).all()
        assert "not corrected for the number of comparisons" in " ".join(build_cost_flips(load_study(folder)).notes)


def test_without_anything_to_compare_nothing_is_said_of_flips(tmp_path: Path) -> None:
    cells = paper_cells(instrument_every_steps=0)
    write_synthetic_study(tmp_path, cells=cells, seeds=[0], outcomes={(1, 0): "failed"})
    notes = build_cost_flips(load_study(tmp_path)).notes
    assert notes[-1].startswith("Nothing to compare")
    assert not any("No conclusion flips" in note for note in notes)


def test_flops_are_the_published_ones(study: Study) -> None:
    frame = measure_flops(study).set_index("layer")
    total = frame.loc["total"]
    assert total["flops_worksheet"] == 556_652_554
    assert total["num_parameters"] == 11_173_962
    assert total["macs"] == 555_422_720
    assert total["flops_two_per_mac"] == 1_110_845_440
    assert total["flops_two_per_mac_training"] == TRAINING_FLOPS
    assert total["share"] == pytest.approx(1.0)
    largest = frame[frame["flops_worksheet"] == 37_748_736]
    assert len(largest) == 13
    assert largest["share"].round(4).eq(0.0678).all()
    shown = build_flops(study).frame.set_index("layer")["published"]
    assert shown["total"] == 556_652_554
    assert shown["layer3.1.conv2"] == 37_748_736
    assert shown.drop(index="total").notna().sum() == 10


def test_flops_of_several_widths_each_have_a_total(tmp_path: Path) -> None:
    cells = [build_cell(f"{w}", width=w, epochs=1, instrument_every_steps=0) for w in (8, 64)]
    write_synthetic_study(tmp_path, cells=cells, seeds=[0])
    table = build_flops(load_study(tmp_path))
    totals = table.frame[table.frame["layer"] == "total"].set_index("width")["flops_worksheet"]
    assert totals[64] == 556_652_554
    assert totals[8] < totals[64] / 40
    assert table.columns[0].name == "width"


def test_compute_per_trial(study: Study) -> None:
    frame = measure_compute(study)
    for row, batch, speed in zip(frame.to_dict("records"), (64, 128), (20_000, 30_000), strict=True):
        images = 50_000 // batch * batch
        assert row["flops_per_epoch"] == TRAINING_FLOPS * images
        assert row["flops_per_trial"] == 25 * TRAINING_FLOPS * images
        assert row["flops_per_s_mean"] == pytest.approx(TRAINING_FLOPS * speed)
        assert row["memory_mb"] == pytest.approx(42.6, abs=0.05)
        assert row["flops_per_parameter"] == pytest.approx(49.8, abs=0.05)
        assert row["peak_memory_mb"] == pytest.approx(2e9 / 2**20)
