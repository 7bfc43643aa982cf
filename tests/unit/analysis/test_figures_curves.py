"""Figures of whole epochs and of the model: their data by value, against plain loops over the records."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.drawing.selection import select_cells, spread_over_trials
from analysis.drawing.style import NothingToDraw
from analysis.figures import architecture, flops_by_layer, learning_rate, noise_scale, samples, training_curves
from analysis.records.frames import Study, load_study
from tests.support import synthetic_model
from tests.unit.analysis.figure_studies import rows_of, small_cells, trials_of, write_small_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_small_study(tmp_path_factory.mktemp("study"), outcomes={(0, 2): "diverged", (1, 0): "running"})


def test_curves_are_means_and_sample_deviations_over_completed_seeds(study: Study) -> None:
    cells = select_cells(study.info, study.trials)
    data = training_curves.build_training_curves(study.epochs, cells)
    rows = rows_of(study.folder, "epochs")
    for cell in (0, 1):
        trials = trials_of(study, cell)
        for metric in training_curves.METRICS:
            for epoch in (1, 4):
                values = [row[metric] for row in rows if row["trial_id"] in trials and row["epoch"] == epoch]
                found = data.rows[
                    (data.rows["cell"] == cell) & (data.rows["metric"] == metric) & (data.rows["epoch"] == epoch)
                ]
                assert len(values) == 2
                assert found["mean"].item() == pytest.approx(statistics.mean(values))
                assert found["sd"].item() == pytest.approx(statistics.stdev(values))
                assert found["num"].item() == 2


def test_one_seed_has_a_line_and_no_band(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, seeds=(0,))
    data = training_curves.build_training_curves(study.epochs, select_cells(study.info, study.trials))
    assert data.rows["sd"].isna().all()
    axes = training_curves.draw_cell_curves(data, 0).axes[0]
    assert len(axes.lines) == 2
    assert not axes.collections


def test_an_interrupted_trial_is_shown_with_the_epochs_that_it_has(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, seeds=(0,), epochs=6, outcomes={(0, 0): "interrupted", (1, 0): "pending"})
    cells = select_cells(study.info, study.trials)
    assert [cell.label for cell in cells] == ["Experiment 1 (pending)"]
    data = training_curves.build_training_curves(study.epochs, cells)
    assert sorted(set(data.rows["epoch"])) == [1, 2]


def test_values_that_are_no_numbers_count_as_not_measured() -> None:
    frame = pd.DataFrame({"key": [1, 1, 1, 2, 3], "value": [2.0, math.nan, 4.0, math.inf, 7.0]})
    spread = spread_over_trials(frame, ["key"], "value")
    assert spread.to_dict("list")["key"] == [1, 3]
    assert spread["mean"].tolist() == [3.0, 7.0]
    assert spread["num"].tolist() == [2, 1]


def test_a_cell_is_shown_by_its_completed_trials_or_says_by_which(tmp_path: Path) -> None:
    outcomes = {(0, 0): "running", (0, 1): "diverged", (1, 0): "failed", (1, 1): "completed"}
    study = write_small_study(tmp_path, seeds=(0, 1), outcomes=outcomes)
    first, second = select_cells(study.info, study.trials)
    assert first.label == "Experiment 1 (running)"
    assert second.label == "Experiment 2"
    assert second.trial_ids == tuple(trials_of(study, 1))
    assert second.representative_seed == 1


def test_a_cell_without_any_epoch_is_not_shown(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, seeds=(0,), outcomes={(0, 0): "pending", (1, 0): "failed"})
    cells = select_cells(study.info, study.trials)
    assert cells == []
    with pytest.raises(NothingToDraw, match="no epoch"):
        training_curves.build_training_curves(study.epochs, cells)
    with pytest.raises(NothingToDraw, match="no epoch"):
        learning_rate.build_schedule(study.epochs, cells)


def test_schedule_starts_at_the_configured_rate_and_follows_the_cosine(study: Study) -> None:
    data = learning_rate.build_schedule(study.epochs, select_cells(study.info, study.trials))
    own = data.rows[data.rows["cell"] == 0]
    assert own["epoch"].tolist() == [0, 1, 2, 3, 4]
    expected = [0.15 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(5)]
    assert own["learning_rate"].tolist() == pytest.approx(expected)


def test_schedule_of_a_warm_up_starts_below_the_configured_rate(study: Study) -> None:
    """Two epochs of warm-up: the first epoch trains at a third of the rate, as trainable/training/loop.py has it."""
    cell = select_cells(study.info, study.trials)[0]
    warm = replace(cell, config={**cell.config, "warmup_epochs": 2})
    rates = learning_rate.build_schedule(study.epochs, [warm]).rows
    assert rates["learning_rate"].iloc[0] == pytest.approx(0.15 / 3)


def test_flops_add_up_to_the_published_total(study: Study) -> None:
    data = flops_by_layer.build_layer_flops(study.model, "width 64")
    assert data.total == 556_652_554
    largest = data.rows[data.rows["flops"] == 37_748_736]
    assert len(largest) == 13
    assert largest["share"].tolist() == pytest.approx([0.0678] * 13, abs=5e-5)
    assert not set(data.rows["kind"]) & {"relu", "add"}
    with pytest.raises(NothingToDraw, match="width 8"):
        flops_by_layer.build_layer_flops(study.model, "width 8")


def test_architecture_has_the_blocks_and_projections_of_the_model(study: Study) -> None:
    data = architecture.build_architecture(study.model, "width 64")
    assert [column.group for column in data.columns] == ["stem", "layer1", "layer2", "layer3", "layer4", "fc"]
    blocks = [block for column in data.columns for block in column.blocks if block.has_skip]
    assert len(blocks) == 8
    assert [block.name for block in blocks if block.shortcut] == ["layer2.0", "layer3.0", "layer4.0"]
    assert (
        data.num_parameters == 11_173_962 == sum(parameter.num_elements for parameter in synthetic_model.parameters())
    )
    assert blocks[2].operations[0].label == "3×3 conv 128, /2"
    assert [operation.label for operation in blocks[2].shortcut] == ["1×1 conv 128, /2", "batch norm"]
    texts = [text.get_text() for text in architecture.draw_architecture(data).axes[0].texts]
    assert texts.count("+") == 8
    assert "linear 512 → 10" in texts


def test_samples_keep_ten_images_of_a_class() -> None:
    images = np.arange(3 * 12 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 12, 4, 4, 3)
    data = samples.build_sample_grid(images, ["a", "b", "c"])
    assert data.images.shape == (3, 10, 4, 4, 3)
    figure = samples.draw_sample_grid(data)
    sheet = figure.axes[0].images[0].get_array()
    assert sheet is not None
    assert np.array_equal(np.asarray(sheet)[5:9, 10:14, :3], images[1, 2])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    with pytest.raises(NothingToDraw):
        samples.build_sample_grid(np.zeros((0, 0, 32, 32, 3), np.uint8), [])


def test_grey_samples_are_drawn_grey() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4, 1)
    sheet = samples.draw_sample_grid(samples.build_sample_grid(images, ["a", "b"])).axes[0].images[0].get_array()
    assert np.array_equal(np.asarray(sheet)[5:9, 10:14, :3], np.repeat(images[1, 2], 3, axis=2))


def test_noise_scale_of_a_cell_is_the_ratio_of_means(study: Study) -> None:
    epochs = study.epochs.copy()
    trial = trials_of(study, 0)
    first = (epochs["trial_id"] == trial[0]) & (epochs["epoch"] == 1)
    second = (epochs["trial_id"] == trial[1]) & (epochs["epoch"] == 1)
    epochs.loc[first, ["gradient_covariance_trace", "gradient_l2_squared_unbiased", "noise_scale"]] = [60, -0.1, None]
    epochs.loc[second, ["gradient_covariance_trace", "gradient_l2_squared_unbiased", "noise_scale"]] = [20, 0.5, 40]
    data = noise_scale.build_noise_scales(epochs, select_cells(study.info, study.trials))
    own = data.cells[(data.cells["cell"] == 0) & (data.cells["epoch"] == 1)]
    assert own["noise_scale"].item() == pytest.approx((60 + 20) / (-0.1 + 0.5))
    assert data.trials[(data.trials["cell"] == 0) & (data.trials["epoch"] == 1)]["noise_scale"].tolist() == [40]
    assert data.batch_sizes == {0: 64, 1: 128}


def test_noise_scale_that_was_never_measured_is_left_out(study: Study) -> None:
    epochs = study.epochs.assign(
        noise_scale=np.nan, gradient_covariance_trace=np.nan, gradient_l2_squared_unbiased=np.nan
    )
    with pytest.raises(NothingToDraw, match="not measured"):
        noise_scale.build_noise_scales(epochs, select_cells(study.info, study.trials))


def test_study_is_read_again_the_same(study: Study) -> None:
    again = load_study(study.folder)
    cells = select_cells(again.info, again.trials)
    assert cells == select_cells(study.info, study.trials)
    assert [cell.config["batch_size"] for cell in small_cells()] == [64, 128]
