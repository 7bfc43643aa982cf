"""Figures of layers: their data by value, against plain loops over the records."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis.drawing.layer_records import LayerSummary, read_trial_layers, summarise_layers
from analysis.drawing.selection import ShownCell, select_cells
from analysis.drawing.style import NothingToDraw
from analysis.figures import (
    angular_update,
    axes_views,
    combined_analysis,
    combined_over_epochs,
    figure_kinds,
    gradient_flow,
    gradient_heatmap,
    update_ratio,
    weight_updates,
)
from analysis.records.frames import Study, load_study
from tests.support import synthetic_model
from tests.support.studies import build_cell, write_synthetic_study
from tests.support.trained_study import train_study
from tests.unit.analysis.figure_studies import rows_of, trials_of, write_small_study

NAMES = [parameter.name for parameter in synthetic_model.parameters()]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_small_study(tmp_path_factory.mktemp("study"), outcomes={(0, 2): "diverged"})


@pytest.fixture(scope="module")
def cells(study: Study) -> list[ShownCell]:
    return select_cells(study.info, study.trials)


@pytest.fixture(scope="module")
def summary(study: Study, cells: list[ShownCell]) -> LayerSummary:
    return summarise_layers(study, cells)


@pytest.fixture(scope="module")
def layer_rows(study: Study) -> list[dict[str, Any]]:
    return rows_of(study.folder, "layers")


@pytest.fixture(scope="module")
def trial_rows(study: Study, layer_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    first = trials_of(study, 0)[0]
    return [row for row in layer_rows if row["trial_id"] == first]


@pytest.fixture(scope="module")
def trial_layers(study: Study) -> pd.DataFrame:
    return read_trial_layers(study, trials_of(study, 0)[0])


def test_gradient_flow_is_mean_of_means_and_maximum_of_maxima(
    trial_layers: pd.DataFrame, trial_rows: list[dict[str, Any]]
) -> None:
    data = gradient_flow.build_gradient_flow(trial_layers)
    assert data.epochs == (1, 2, 3, 4)
    assert list(data.layers) == [name for name in NAMES if not name.endswith(".bias")]
    assert len(data.layers) == 41
    for epoch, layer in ((1, "conv1.weight"), (3, "fc.weight"), (4, "layer4.1.bn2.weight")):
        own = [row for row in trial_rows if row["epoch"] == epoch and row["layer"] == layer]
        found = data.values[(data.values["epoch"] == epoch) & (data.values["layer"] == layer)]
        assert len(own) == 3  # steps 0, 8 and 16 of 20
        assert found["mean"].item() == pytest.approx(statistics.mean(row["gradient_mean_abs"] for row in own), rel=1e-6)
        assert found["max"].item() == pytest.approx(max(row["gradient_max_abs"] for row in own), rel=1e-6)


def test_gradient_flow_takes_records_in_memory_and_the_published_epochs() -> None:
    rows = [
        {"epoch": epoch, "layer": "fc.weight", "gradient_mean_abs": 0.1 / epoch, "gradient_max_abs": 1.0}
        for epoch in range(1, 26)
    ]
    frame = pd.DataFrame(rows)
    assert gradient_flow.build_gradient_flow(frame).epochs == (1, 5, 10, 15, 20, 25)
    chosen = gradient_flow.build_gradient_flow(frame, [7])
    assert chosen.epochs == (7,)
    assert chosen.values["mean"].item() == pytest.approx(0.1 / 7)
    with pytest.raises(NothingToDraw, match="these epochs"):
        gradient_flow.build_gradient_flow(frame, [99])


def test_gradient_flow_leaves_out_what_is_no_number_and_draws_zero_as_no_bar() -> None:
    frame = pd.DataFrame({
        "epoch": [1, 1, 1], "layer": ["a.weight", "b.weight", "c.weight"],
        "gradient_mean_abs": [0.0, math.nan, 1e-3], "gradient_max_abs": [0.0, math.inf, 1e-2],
    })  # fmt: skip
    data = gradient_flow.build_gradient_flow(frame)
    assert data.layers == ("a.weight", "c.weight")
    axes = gradient_flow.draw_gradient_flow(data, "x").axes[0]
    assert len(axes.patches) == 2  # mean and maximum of c


def test_heat_map_is_the_mean_over_trials_and_steps(
    study: Study, summary: LayerSummary, layer_rows: list[dict[str, Any]]
) -> None:
    data = gradient_heatmap.build_gradient_heatmap(summary, 0)
    assert list(data.layers) == NAMES
    assert data.epochs == (1, 2, 3, 4)
    trials = trials_of(study, 0)
    own = [
        row["gradient_mean_abs"] for row in layer_rows
        if row["trial_id"] in trials and row["epoch"] == 2 and row["layer"] == "layer3.0.conv2.weight"
    ]  # fmt: skip
    assert len(own) == 6  # two completed trials, three steps
    found = data.values[NAMES.index("layer3.0.conv2.weight"), 1]
    assert found == pytest.approx(statistics.mean(own), rel=1e-6)
    everything = [gradient_heatmap.build_gradient_heatmap(summary, cell).values for cell in (0, 1)]
    assert data.limits[0] == pytest.approx(min(np.nanmin(values) for values in everything))
    assert data.limits[1] == pytest.approx(max(np.nanmax(values) for values in everything))


def test_weight_updates_end_at_the_last_measured_step(
    trial_layers: pd.DataFrame, trial_rows: list[dict[str, Any]]
) -> None:
    data = weight_updates.build_weight_updates(trial_layers)
    assert (data.epoch, data.step) == (4, 76)
    assert list(data.current["layer"]) == NAMES
    expected = [row["displacement_mean_abs"] for row in trial_rows if row["step"] == 76]
    assert data.current["change"].tolist() == pytest.approx(expected)
    second = weight_updates.build_weight_updates(trial_layers, epoch=2)
    assert (second.epoch, second.step) == (2, 36)
    assert set(second.over_time["step"]) == {0, 8, 16, 20, 28, 36}
    line = second.over_time[second.over_time["layer"] == "conv1.weight"]
    expected = [row["weight_std"] for row in trial_rows if row["layer"] == "conv1.weight" and row["epoch"] <= 2]
    assert line["weight_std"].tolist() == pytest.approx(expected)


def test_weight_updates_are_thinned_evenly_with_both_ends() -> None:
    steps = np.arange(0, 20_000, 100)
    frame = pd.DataFrame({
        "layer": "fc.weight", "group": "fc", "kind": "linear", "step": steps, "epoch": steps // 781 + 1,
        "displacement_mean_abs": steps / 1e6, "weight_mean_abs": 0.1, "weight_std": 0.1,
    })  # fmt: skip
    kept = weight_updates.build_weight_updates(frame).over_time["step"].to_numpy()
    assert len(kept) == 50
    assert kept[0] == 0
    assert kept[-1] == 19_900
    assert set(np.diff(kept)) == {400, 500}


def test_the_published_gradient_flow_is_of_the_last_step_of_each_epoch(tmp_path: Path) -> None:
    study = load_study(train_study(tmp_path))
    steps = study.epochs.groupby("epoch")["step"].first()
    rows = [
        row for row in rows_of(study.folder, "layers")
        if row["step"] == steps[row["epoch"]] - 1 and not row["layer"].endswith(".bias")
    ]  # fmt: skip
    kind = figure_kinds()["gradient_flow_last_step"]
    data = kind.build(study, next(iter(kind.subjects(study))))
    assert len(rows) == 2 * len(data.layers)
    assert not set(study.read_layers(["step"])["step"]) & {row["step"] for row in rows}, "the cadence has other steps"
    found = data.values.set_index(["epoch", "layer"])
    for row in rows:
        values = found.loc[(row["epoch"], row["layer"])]
        assert values.to_list() == pytest.approx([row["gradient_mean_abs"], row["gradient_max_abs"]])


def test_combined_analysis_over_the_epochs_holds_each_of_them(trial_layers: pd.DataFrame) -> None:
    data = combined_over_epochs.build_combined_epochs(trial_layers, 4)
    assert [at.epoch for at in data.epochs] == [1, 2, 3, 4]
    axes = combined_over_epochs.draw_combined_epochs(data, "title").axes[1]
    for line, at in zip(axes.lines, data.epochs, strict=True):
        assert np.asarray(line.get_xdata()).tolist() == at.rows["change"].tolist()
    with pytest.raises(NothingToDraw):
        combined_over_epochs.build_combined_epochs(trial_layers.iloc[:0], 4)


def test_combined_analysis_pairs_gradient_and_change(
    trial_layers: pd.DataFrame, trial_rows: list[dict[str, Any]]
) -> None:
    data = combined_analysis.build_combined_analysis(trial_layers, 3)
    assert list(data.rows["layer"]) == NAMES
    row = data.rows.set_index("layer").loc["layer2.0.conv1.weight"]
    own = [r for r in trial_rows if r["layer"] == "layer2.0.conv1.weight" and r["epoch"] <= 3]
    assert row["gradient"] == pytest.approx(statistics.mean(r["gradient_mean_abs"] for r in own), rel=1e-6)
    assert row["change"] == pytest.approx(own[-1]["displacement_mean_abs"])
    assert combined_analysis.build_combined_analysis(trial_layers).epoch == 4
    with pytest.raises(NothingToDraw, match="epoch 9"):
        combined_analysis.build_combined_analysis(trial_layers, 9)


def test_update_ratio_spreads_over_seeds_of_each_trials_mean(
    study: Study, cells: list[ShownCell], summary: LayerSummary, layer_rows: list[dict[str, Any]]
) -> None:
    data = update_ratio.build_update_ratios(summary, cells)
    per_trial = [
        statistics.mean(
            row["update_ratio"] for row in layer_rows
            if row["trial_id"] == trial and row["epoch"] == 2 and row["group"] == "layer3"
        )
        for trial in trials_of(study, 0)
    ]  # fmt: skip
    found = data.rows[(data.rows["cell"] == 0) & (data.rows["group"] == "layer3") & (data.rows["epoch"] == 2)]
    assert found["num"].item() == 2
    assert found["mean"].item() == pytest.approx(statistics.mean(per_trial), rel=1e-6)
    assert found["sd"].item() == pytest.approx(statistics.stdev(per_trial), rel=1e-3, abs=1e-9)


def test_angular_equilibrium_uses_the_learning_rate_of_the_step(
    study: Study, cells: list[ShownCell], summary: LayerSummary
) -> None:
    data = angular_update.build_angular_updates(summary, study.steps, cells)
    own = data.equilibrium[data.equilibrium["cell"] == 1].set_index("epoch")["angle"]
    for epoch in (1, 2, 4):
        rate = 0.2 * (1 + math.cos(math.pi * (epoch - 1) / 4)) / 2  # of the steps of this epoch, not after it
        assert own[epoch] == pytest.approx(math.sqrt(2 * rate * 5e-4 / 1.9), rel=1e-6)
    assert set(data.angles.rows["layer"]) == {p.name for p in synthetic_model.parameters() if p.kind == "conv"}


def test_other_optimizers_have_no_predicted_angle(study: Study, cells: list[ShownCell], summary: LayerSummary) -> None:
    others = [replace(cell, config={**cell.config, "optimizer": "adamw"}) for cell in cells]
    data = angular_update.build_angular_updates(summary, study.steps, [others[0], *cells[1:]])
    assert 0 not in set(data.equilibrium["cell"])
    assert 1 in set(data.equilibrium["cell"])
    alone = angular_update.build_angular_updates(summary, study.steps, others)
    assert alone.equilibrium.empty
    labels = [text.get_text() for text in angular_update.draw_angular_updates(alone).legends[0].get_texts()]
    assert "predicted equilibrium" not in labels


def test_axes_views_place_the_same_point_on_every_axis(
    study: Study, cells: list[ShownCell], summary: LayerSummary, layer_rows: list[dict[str, Any]]
) -> None:
    data = axes_views.build_axes_views(summary, study.epochs, cells, {"width 64": 3_328_997_376})
    point = data.rows[(data.rows["cell"] == 0) & (data.rows["step"] == 36)].iloc[0]  # the 37th step, of epoch 2
    assert point["images"] == 37 * 64
    assert point["epochs"] == pytest.approx(37 / 20)
    assert point["flops"] == pytest.approx(37 * 64 * 3_328_997_376)
    rates = [0.15 * (1 + math.cos(math.pi * (step // 20) / 4)) / 2 for step in range(37)]
    assert point["cumulative_learning_rate"] == pytest.approx(sum(rates))
    trials = trials_of(study, 0)
    own = [r for r in layer_rows if r["trial_id"] in trials and r["step"] == 36]
    assert point["gradient_mean_abs"] == pytest.approx(statistics.mean(r["gradient_mean_abs"] for r in own), rel=1e-6)
    assert point["update_ratio"] == pytest.approx(statistics.mean(r["update_ratio"] for r in own), rel=1e-6)
    unknown = axes_views.build_axes_views(summary, study.epochs, cells, {})
    assert unknown.rows["flops"].isna().all()


def test_infinite_and_missing_values_of_a_trial_count_as_not_measured(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, epochs=1, seeds=(0,))
    table = study.folder.read_records("layers")
    values = table["gradient_mean_abs"].to_numpy().copy()
    values[0], values[62] = np.inf, np.nan  # conv1.weight at steps 0 and 8 of the first cell
    position = table.schema.get_field_index("gradient_mean_abs")
    field = table.schema.field(position)
    study.folder.write_records("layers", table.set_column(position, field, pa.array(values, field.type)))
    summary = summarise_layers(study, select_cells(study.info, study.trials))
    found = summary.by_layer[(summary.by_layer["cell"] == 0) & (summary.by_layer["layer"] == "conv1.weight")]
    assert found["gradient_mean_abs"].item() == pytest.approx(values[124])


def test_no_layer_records_is_a_reason_not_an_error(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, layers=False)
    cells = select_cells(study.info, study.trials)
    summary = summarise_layers(study, cells)
    layers = read_trial_layers(study, cells[0].representative)
    for build in (
        lambda: gradient_flow.build_gradient_flow(layers), lambda: weight_updates.build_weight_updates(layers),
        lambda: combined_analysis.build_combined_analysis(layers),
        lambda: gradient_heatmap.build_gradient_heatmap(summary, 0),
        lambda: update_ratio.build_update_ratios(summary, cells),
        lambda: angular_update.build_angular_updates(summary, study.steps, cells),
        lambda: axes_views.build_axes_views(summary, study.epochs, cells, {}),
    ):  # fmt: skip
        with pytest.raises(NothingToDraw):
            build()


def test_trials_of_different_networks_stand_side_by_side(tmp_path: Path) -> None:
    options = {"dataset": "synthetic", "epochs": 1, "instrument_every_steps": 8}
    cells = [build_cell(f"width {width}", width=width, **options) for width in (8, 16)]
    study = load_study(write_synthetic_study(tmp_path, cells=cells, seeds=(0,), num_train=640))
    shown = select_cells(study.info, study.trials)
    views = axes_views.build_axes_views(
        summarise_layers(study, shown), study.epochs, shown, {"width 8": 10, "width 16": 40}
    )
    ratio = views.rows.groupby("cell")["flops"].max()
    assert ratio[1] == 4 * ratio[0]
