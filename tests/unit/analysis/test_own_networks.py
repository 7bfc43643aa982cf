"""Networks other than the published one in tables and figures: their names, the order of their groups, what does not apply to them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claims.measures import model_quantity
from analysis.records.factors import network_labels
from analysis.records.frames import load_study
from analysis.records.phases import merge_orders
from analysis.results.cell_columns import add_factors
from analysis.results.result_table import TableColumn, TableContent, TableKind
from tests.support.studies import build_cell, write_synthetic_study
from trainable.records.tables import build_table


def test_groups_of_networks_of_several_depths_stay_between_input_and_output() -> None:
    shallow, deep = ["embedding", "block1", "head"], ["embedding", "block1", "block2", "block3", "head"]
    assert merge_orders([shallow, deep]) == merge_orders([deep, shallow]) == deep
    assert merge_orders([["layer1", "fc"], ["stem", "layer1", "layer2", "fc"]]) == ["stem", "layer1", "layer2", "fc"]
    assert merge_orders([["a", "b"], ["c"], ["b", "a"]]) == ["a", "b", "c"], (
        "all of them, once each, where they contradict"
    )


def test_layers_of_several_networks_are_read_from_the_input_to_the_output(tmp_path: Path) -> None:
    cells = [build_cell(str(width), epochs=1, width=width, instrument_every_steps=400) for width in (2, 4)]
    folder = write_synthetic_study(tmp_path, cells=cells, seeds=[0])
    rows = folder.read_records("layers").to_pylist()
    first = rows[0]["trial_id"]
    deep = [row for row in rows if row["trial_id"] != first]
    shallow = [row for row in rows if row["trial_id"] == first and row["group"] in ("layer1", "fc")]
    folder.write_records("layers", build_table("layers", [*shallow, *deep]))
    read = load_study(tmp_path).read_layers(["layer", "group"])
    assert list(read["layer"].cat.categories) == list(dict.fromkeys(row["layer"] for row in deep))
    assert list(read["group"].cat.categories) == ["stem", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert read["layer"].astype(str).tolist() == [row["layer"] for row in (*shallow, *deep)]


def test_networks_are_told_apart_by_what_differs() -> None:
    names = [
        "vit, depth 2, heads 3, width 16",
        "vit, depth 4, heads 3, width 16",
        "resnet50, width 16",
        "width 8",
        "width 16",
    ]
    assert list(network_labels(names).values()) == ["vit, depth 2", "vit, depth 4", "resnet50", "width 8", "width 16"]
    assert network_labels(["mlp, depth 2, width 4"]) == {"mlp, depth 2, width 4": "mlp"}


def test_a_convention_that_is_not_defined_gives_no_number() -> None:
    layers = pd.DataFrame(
        {"layer": ["a"], "num_parameters": [3], "flops_worksheet": [math.nan], "flops_two_per_mac": [8]}
    )
    assert model_quantity(layers, "flops_per_parameter") is None
    assert model_quantity(layers, "flops_worksheet_share", "a") is None
    assert model_quantity(layers, "flops_two_per_mac") == 8
    assert model_quantity(layers.assign(flops_worksheet=6.0), "flops_per_parameter") == 2


def test_a_field_that_only_some_networks_have_stays_a_whole_number(tmp_path: Path) -> None:
    cells = [build_cell("vit", model="vit", epochs=1, width=4, **{"model_fields.depth": depth}) for depth in (2, 4)]
    cells.append(build_cell("residual", epochs=1, width=4))
    write_synthetic_study(tmp_path, cells=cells, seeds=[0])
    study = load_study(tmp_path)
    assert "model_fields.depth" in study.info.factors
    frame = add_factors(study, pd.DataFrame({"cell_id": list(study.cells)}))
    assert frame["model_fields.depth"].tolist() == [2, 4, None]
    assert type(frame["model_fields.depth"][0]) is int


def test_columns_of_published_numbers_are_there_where_there_is_one() -> None:
    columns = (TableColumn("value", "value", "number"), TableColumn("published_low", "published from", "number"))

    def build(published: float) -> list[str]:
        frame = pd.DataFrame({"value": [np.nan], "published_low": [published]})
        kind = TableKind(name="t", section="s", title="T", build=lambda study: TableContent(frame, columns))
        return [column.name for column in kind.fill(None).columns]  # type: ignore[arg-type]

    assert build(1.0) == ["value", "published_low"]
    assert build(math.nan) == ["value"]
