"""A study as DataFrames, and what is said of folders that are missing, damaged, foreign, newer or at odds with themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal

import analysis
import analysis.__main__
from analysis.records.layer_file import read_layers
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.tables import build_tables
from tests.support.studies import paper_cells, write_synthetic_study
from trainable.instrument import Column
from trainable.records.columns import COLUMNS, RESERVED
from trainable.records.tables import SCHEMA_VERSION, SCHEMAS, build_table, schema


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    cells = paper_cells(epochs=3, width=4, instrument_every_steps=390)
    return write_synthetic_study(tmp_path / "study", cells=cells, seeds=[0, 1])


def test_a_notebook_gets_dataframes(folder: StudyFolder) -> None:
    study = analysis.load_study(folder.path)
    assert study.info.name == "synthetic"
    assert study.trials["label"].tolist() == ["Experiment 1"] * 2 + ["Experiment 2"] * 2
    assert len(study.epochs) == 4 * 3
    assert study.layers["layer"].nunique() == 62
    assert len(study.layers) == len(folder.read_records("layers"))
    assert study.model["macs"].sum() > 0
    assert {"batch_loss", "running_accuracy"} <= set(study.steps)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, analysis, analysis.metrics, analysis.design.confounds; assert analysis.metrics.list_metrics(); assert not {'pandas', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20:200] = bytes(180)  # in the first page of data, not in the footer
    path.write_bytes(content)


def _newer(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), path)


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), path)


def _other_type(path: Path) -> None:
    table = pq.read_table(path)
    position = table.schema.get_field_index("epoch")
    changed = table.set_column(position, "epoch", table["epoch"].cast(pa.float64()))
    pq.write_table(changed.replace_schema_metadata(SCHEMAS["epochs"].metadata), path)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("trials.parquet", Path.unlink, "missing"),
        ("trials.parquet", _truncate, "not a readable Parquet file"),
        ("epochs.parquet", _truncate, "not a readable Parquet file"),
        ("epochs.parquet", _garble, "cannot be read"),
        ("layers.parquet", _truncate, "not a readable Parquet file"),
        ("layers.parquet", _garble, "cannot be read"),
        ("steps.parquet", _newer, f"schema version 99, this program reads version {SCHEMA_VERSION}"),
        ("layers.parquet", _foreign, "schema version none"),
        ("epochs.parquet", _other_type, "column epoch is double, not int32"),
        ("model.parquet", _foreign, "schema version none"),
        ("study.json", Path.unlink, "missing; not a study folder"),
        ("study.json", _truncate, "not valid JSON"),
    ],
)
def test_damage_is_named_with_its_file(
    folder: StudyFolder, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    damage(folder.path / name)
    with pytest.raises(StudyFolderError) as caught:
        build_tables(folder)
    assert str(folder.path / name) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0, 1])
def test_only_row_groups_that_can_hold_a_trial_are_read(folder: StudyFolder, number: int) -> None:
    """Each trial has a row group of its own here, so the others' bytes may be anything."""
    path = folder.records("layers")
    trials = folder.read_records("trials")["trial_id"].to_pylist()
    expected = folder.read_records("layers", filters=pc.field("trial_id") == trials[number])["gradient_l2"].to_pylist()
    content = bytearray(path.read_bytes())
    metadata = pq.ParquetFile(path).metadata
    for group in set(range(metadata.num_row_groups)) - {number}:
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
            content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(content))
    assert read_layers(folder, ["gradient_l2"], [trials[number]])["gradient_l2"].tolist() == expected


def test_summaries_are_of_the_cadence_and_not_of_the_last_step_measured_besides(tmp_path: Path) -> None:
    """Trials with and without such a step, at two numbers of steps an epoch (781 and 390), read in every way."""
    cells = paper_cells(epochs=3, width=4, instrument_every_steps=200)
    folder = write_synthetic_study(tmp_path / "study", cells=cells, seeds=[0, 1])
    before = analysis.load_study(folder.path)
    columns = ["trial_id", "epoch", "step", "layer", "gradient_mean_abs", "displacement_mean_abs"]
    expected = before.read_layers(columns)
    tables = build_tables(folder)
    rows = folder.read_records("layers").to_pylist()
    trials = before.trials["trial_id"].tolist()
    steps_of = dict(zip(trials, (781, 781, 390, 390), strict=True))
    ends = [
        {
            **row,
            "step": row["epoch"] * steps_of[row["trial_id"]] - 1,
            "gradient_mean_abs": 1e3,
            "displacement_mean_abs": 1e3,
        }
        for row in rows
        if row["step"] % steps_of[row["trial_id"]] == 0 and row["trial_id"] != trials[1]
    ]
    together = sorted([*rows, *ends], key=lambda row: (trials.index(row["trial_id"]), row["step"]))
    folder.write_records("layers", build_table("layers", together))

    after = analysis.load_study(folder.path)
    assert len(after.layers) == len(rows) + 3 * 3 * 62
    found = after.read_layers(columns)
    in_order = ["trial_id", "step", "layer"]
    for frame in (found, expected):
        frame[["trial_id", "layer"]] = frame[["trial_id", "layer"]].astype(str)
    first, second = (frame.sort_values(in_order, ignore_index=True) for frame in (found, expected))
    assert_frame_equal(first, second)
    for trial_id, of_trial in expected.groupby("trial_id"):
        own = after.read_layers(columns, [str(trial_id)]).astype({"trial_id": str, "layer": str})
        assert_frame_equal(own.reset_index(drop=True), of_trial.reset_index(drop=True))
    for name, table in build_tables(folder).items():
        assert_frame_equal(table.frame, tables[name].frame, obj=name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda study: study["factors"].append("colour"), "factor 'colour' is no field of a cell's configuration"),
        (lambda study: study["factors"].append("seed"), "factor 'seed' is no field of a cell's configuration"),
        (lambda study: study["cells"][0]["config"].pop("epochs"), "has a configuration without epochs"),
        (lambda study: study["cells"][0].update(config={}), "has a configuration without batch_size"),
    ],
)
def test_cells_and_factors_of_another_kind_are_refused_in_one_line(
    folder: StudyFolder, change: Callable[[dict[str, Any]], object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(folder.study_json.read_text())
    change(content)
    folder.study_json.write_text(json.dumps(content))
    assert analysis.__main__.main([str(folder.path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder.study_json}: ")
    assert reason in said
    assert said.count("\n") == 1


def test_a_newer_study_is_refused(folder: StudyFolder) -> None:
    content = json.loads(folder.study_json.read_text())
    folder.study_json.write_text(json.dumps({**content, "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(
        StudyFolderError, match=f"schema version {SCHEMA_VERSION + 1}, this program reads version {SCHEMA_VERSION}"
    ):
        analysis.load_study(folder.path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match="no such study folder"):
        analysis.load_study(tmp_path / "none")


def test_records_that_contradict_each_other(folder: StudyFolder) -> None:
    rows = folder.read_records("epochs").to_pylist()
    folder.write_records("epochs", build_table("epochs", rows[1:]))
    with pytest.raises(StudyFolderError, match=r"epochs\.parquet: trial \w+ completed 3 epochs and has records of 2"):
        build_tables(folder, ["comparison"])
    folder.write_records("epochs", build_table("epochs", [*rows, rows[0]]))
    with pytest.raises(StudyFolderError, match=r"trial \w+ has epoch 1 more than once"):
        build_tables(folder, ["comparison"])
    trials = folder.read_records("trials").to_pylist()
    folder.write_records("trials", build_table("trials", [*trials, trials[0]]))
    with pytest.raises(StudyFolderError, match=r"trials\.parquet: trial \w+ has more than one row"):
        build_tables(folder, ["comparison"])


def test_records_of_unknown_trials_and_cells_are_left_out(folder: StudyFolder) -> None:
    epochs, trials = (folder.read_records(kind).to_pylist() for kind in ("epochs", "trials"))
    before = build_tables(folder, ["comparison"])["comparison"].frame
    folder.write_records("epochs", build_table("epochs", [*epochs, {**epochs[0], "trial_id": "unknown"}]))
    foreign = {**trials[0], "trial_id": "foreign", "cell_id": "foreign"}
    folder.write_records("trials", build_table("trials", [*trials, foreign]))
    after = build_tables(folder, ["comparison"])["comparison"].frame
    assert after.equals(before)


def test_columns_called_as_what_tables_put_beside_a_record_change_no_table(folder: StudyFolder) -> None:
    """A newer version, or a file of somebody else, may have them."""
    expected = build_tables(folder)
    for kind, names in RESERVED.items():
        table = folder.read_records(kind)
        for name in sorted(names.difference(table.column_names)):
            table = table.append_column(name, pa.array(["x"] * len(table)))
        folder.write_records(kind, table)
    for name, table in build_tables(folder).items():
        assert_frame_equal(table.frame, expected[name].frame, obj=name)


@pytest.mark.parametrize(("kind", "name"), [("trials", "label"), ("epochs", "cell_id"), ("steps", "config.batch_size")])
def test_no_instrument_has_a_column_called_so(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    monkeypatch.setitem(COLUMNS, kind, (*COLUMNS[kind], Column(name, pa.float64(), "", "of an instrument")))
    with pytest.raises(ValueError, match=f"{kind} records have a column {name!r}, as tables call"):
        schema(kind)
