"""Tables of gradients and weight updates against plain Python over the layer records."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from analysis.records.frames import Study, load_study
from analysis.records.layer_file import read_layers
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.tables.dynamics import (
    build_gradient_health,
    build_gradient_ranges,
    build_weight_update_ranks,
    phase_notes,
)
from tests.support.studies import build_cell, paper_cells, write_synthetic_study
from trainable.records.tables import SCHEMAS, build_table

PHASES = {"all": (1, 25), "early": (1, 5), "middle": (10, 20), "late": (20, 25)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("studies") / "dynamics"
    cells = paper_cells(instrument_every_steps=390, width=4)
    write_synthetic_study(folder, cells=cells, seeds=[0, 1, 2], outcomes={(1, 2): "diverged"})
    return load_study(folder)


@pytest.fixture(scope="module")
def rows(study: Study) -> list[dict[str, Any]]:
    """The layer records of completed trials with their cell."""
    cells = {
        t["trial_id"]: t["cell_id"]
        for t in study.folder.read_records("trials").to_pylist()
        if t["status"] == "completed"
    }
    found = study.folder.read_records("layers").to_pylist()
    return [{**row, "cell_id": cells[row["trial_id"]]} for row in found if row["trial_id"] in cells]


def test_gradient_ranges(study: Study, rows: list[dict[str, Any]]) -> None:
    expected: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for phase, (first, last) in PHASES.items():
            if first <= row["epoch"] <= last:
                expected[row["cell_id"], phase, row["group"], "all"].append(row["gradient_mean_abs"])
                expected[row["cell_id"], phase, "all", row["kind"]].append(row["gradient_mean_abs"])
    frame = build_gradient_ranges(study).frame
    found = {(r["cell_id"], r["phase"], r["group"], r["kind"]): r for r in frame.to_dict("records")}
    assert set(found) == set(expected)
    for key, values in expected.items():
        measured = [found[key][name] for name in ("min", "median", "max", "count")]
        assert measured == pytest.approx([min(values), statistics.median(values), max(values), len(values)], rel=1e-6)


def test_published_ranges_stand_beside_their_group_and_phase(study: Study) -> None:
    frame = build_gradient_ranges(study).frame
    first = frame[frame["label"] == "Experiment 1"].fillna({"published_low": 0, "published_high": 0})
    found = {
        (r["phase"], r["group"], r["kind"]): (r["published_low"], r["published_high"]) for r in first.to_dict("records")
    }
    assert found["all", "fc", "all"] == (0.1, 1.0)
    assert found["all", "layer1", "all"] == (1e-5, 1e-4)
    assert found["early", "layer4", "all"] == (1e-2, 1e-1)
    assert found["early", "stem", "all"] == (1e-4, 1e-3)
    assert found["late", "fc", "all"] == (0, 0)
    assert found["all", "all", "conv"] == (0, 0)


def test_phases_that_are_scaled_are_said(study: Study, tmp_path: Path) -> None:
    assert phase_notes(study) == []
    cells = [build_cell("ten", epochs=10, instrument_every_steps=390, width=4)]
    write_synthetic_study(tmp_path, cells=cells, seeds=[0])
    short = load_study(tmp_path)
    assert phase_notes(short) == ["Phases are scaled from 25 to 10 epochs: early 1-2, middle 4-8, late 8-10."]
    frame = build_gradient_ranges(short).frame
    assert frame.loc[frame["phase"] == "middle", ["first_epoch", "last_epoch"]].iloc[0].tolist() == [4, 8]


def test_healthy_gradients_show_where_they_came_nearest(study: Study) -> None:
    table = build_gradient_health(study)
    assert table.notes[0].startswith("No gradient vanished or exploded.")
    assert table.frame["problem"].tolist() == ["lowest", "highest"] * 2
    everything = study.folder.read_records("layers").to_pylist()
    ids = set(study.trials.loc[study.trials["label"] == "Experiment 1", "trial_id"])
    lowest = min((r for r in everything if r["trial_id"] in ids), key=lambda r: float(r["gradient_mean_abs"]))
    assert table.frame.loc[0, "layer"] == lowest["layer"]
    assert table.frame.loc[0, "first_epoch"] == lowest["epoch"]
    assert table.frame.loc[0, "lowest"] == pytest.approx(lowest["gradient_mean_abs"])


def test_unhealthy_gradients_are_found_also_in_diverged_trials(tmp_path: Path) -> None:
    cells = paper_cells(instrument_every_steps=390, width=4, epochs=6)
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0], outcomes={(1, 0): "diverged"})
    rows = folder.read_records("layers").to_pylist()
    first, diverged = rows[0]["trial_id"], rows[-1]["trial_id"]
    for row in rows:
        if row["trial_id"] == first and row["layer"] == "conv1.weight" and row["epoch"] in (2, 5):
            row["gradient_mean_abs"] = 5e-7
        if row["trial_id"] == diverged and row["layer"] == "fc.weight" and row["epoch"] == 2:
            row["gradient_max_abs"] = 50.0
        if row["trial_id"] == diverged and row["layer"] == "fc.bias" and row["epoch"] == 2:
            row["gradient_max_abs"] = float("inf")
    folder.write_records("layers", build_table("layers", rows))
    table = build_gradient_health(load_study(tmp_path))
    assert table.notes[0].startswith("Gradients vanished or exploded.")
    found = {
        (r["label"], r["problem"]): r
        for r in table.frame.to_dict("records")
        if r["problem"] not in ("lowest", "highest")
    }
    vanishing, not_finite = found["Experiment 1", "vanishing"], found["Experiment 2", "not finite"]
    assert (vanishing["layer"], vanishing["first_epoch"], vanishing["last_epoch"]) == ("conv1.weight", 2, 5)
    assert vanishing["count"] == sum(r["gradient_mean_abs"] < 1e-6 for r in rows)
    assert not_finite["layer"] == "fc.bias"
    exploding = table.frame[table.frame["problem"] == "exploding"]
    assert sorted(exploding["layer"]) == ["fc.bias", "fc.weight"]
    highest = table.frame[(table.frame["problem"] == "highest") & (table.frame["label"] == "Experiment 2")]
    assert highest["highest"].tolist() == [50.0]


def test_a_bias_whose_convolution_is_normalised_does_not_vanish(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, cells=[build_cell("one", epochs=2, width=4)], seeds=[0])
    rows = folder.read_records("layers").to_pylist()
    biases = [
        {**row, "layer": name, "gradient_mean_abs": 1e-9, "angular_update": None}
        for row in rows if row["layer"] == "conv1.weight"
        for name in ("conv1.bias", "lone.bias")
    ]  # fmt: skip
    folder.write_records("layers", build_table("layers", [*rows, *biases]))
    frame = build_gradient_health(load_study(tmp_path)).frame
    assert set(frame.loc[frame["problem"] == "vanishing", "layer"]) == {"lone.bias"}


def test_update_ranks(study: Study, rows: list[dict[str, Any]]) -> None:
    last = {r["trial_id"]: 0 for r in rows}
    for row in rows:
        last[row["trial_id"]] = max(last[row["trial_id"]], row["step"])
    moved: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    ratio: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        key = (row["cell_id"], row["group"])
        ratio[key][row["trial_id"]].append(row["update_ratio"])
        if row["step"] == last[row["trial_id"]]:
            moved[key][row["trial_id"]].append(row["displacement_mean_abs"])
    frame = build_weight_update_ranks(study).frame
    for found in frame.to_dict("records"):
        key = (found["cell_id"], found["group"])
        for name, values in (("displacement", moved[key]), ("ratio", ratio[key])):
            means = [statistics.mean(of_trial) for of_trial in values.values()]
            assert found[f"{name}_mean"] == pytest.approx(statistics.mean(means), rel=1e-5)
            assert found[f"{name}_sd"] == pytest.approx(statistics.stdev(means), rel=1e-3, abs=1e-9)
    first = frame[frame["label"] == "Experiment 1"].set_index("group")
    assert first["displacement_rank"].to_dict() == {
        "stem": 1,
        "fc": 2,
        "layer1": 3,
        "layer2": 4,
        "layer3": 5,
        "layer4": 6,
    }
    assert first["ratio_rank"].to_dict() == {"fc": 1, "layer4": 2, "layer3": 3, "layer2": 4, "layer1": 5, "stem": 6}
    assert first["published_rank"].dropna().to_dict() == {"layer1": 5, "layer2": 4, "layer3": 3, "layer4": 2, "fc": 1}
    assert first["seeds"].eq(3).all()


@pytest.mark.parametrize("row_group_size", [50, 1000, 10**6])
def test_layers_are_read_as_they_were_written(study: Study, tmp_path: Path, row_group_size: int) -> None:
    table = study.folder.read_records("layers")
    folder = StudyFolder(tmp_path)
    pq.write_table(table, folder.records("layers"), row_group_size=row_group_size)
    expected = table.to_pandas()
    frame = read_layers(folder, SCHEMAS["layers"].names)
    for name in SCHEMAS["layers"].names:
        np.testing.assert_array_equal(frame[name].astype(expected[name].dtype), expected[name])
    ids = expected["trial_id"].astype("str").unique()[[1, 3]]
    some = read_layers(folder, ["layer", "update_l2"], list(ids))
    wanted = expected[expected["trial_id"].isin(ids)]
    assert some["layer"].tolist() == wanted["layer"].tolist()
    assert some["update_l2"].tolist() == wanted["update_l2"].tolist()
    assert len(read_layers(folder, ["epoch"], ["no such trial"])) == 0


def test_layer_records_with_empty_names_are_refused(study: Study, tmp_path: Path) -> None:
    rows = study.folder.read_records("layers").slice(0, 10).to_pylist()
    rows[3]["layer"] = None
    folder = StudyFolder(tmp_path)
    folder.write_records("layers", build_table("layers", rows))
    with pytest.raises(StudyFolderError, match=r"layers\.parquet: column layer has empty values"):
        read_layers(folder, ["layer"])
