"""FLOPs against the published count, against each tool on the whole model, and against counting by hand."""

from __future__ import annotations

import json
import logging
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainable.config import TrialConfig
from trainable.measuring.flops import ModelFlops, count_model, model_table
from trainable.model import INPUT_SHAPE, NUM_CLASSES, build_model, build_network
from trainable.records.tables import SCHEMAS

PUBLISHED_TEN = [
    "layer1.0.conv1",
    "layer1.0.conv2",
    "layer1.1.conv1",
    "layer1.1.conv2",
    "layer2.0.conv2",
    "layer2.1.conv1",
    "layer2.1.conv2",
    "layer3.0.conv2",
    "layer3.1.conv1",
    "layer3.1.conv2",
]


def count_flops(width: int) -> ModelFlops:
    return count_model(build_network(TrialConfig(width=width), NUM_CLASSES, INPUT_SHAPE), INPUT_SHAPE)


@pytest.fixture(scope="module")
def published() -> ModelFlops:
    """The published model, counted once."""
    return count_flops(64)


def test_published_totals(published: ModelFlops) -> None:
    assert published.total("worksheet") == 556_652_554
    assert published.macs == 555_422_720
    assert published.total("two_per_mac") == 1_110_845_440
    assert published.total("two_per_mac_training") == 3_328_997_376
    assert published.num_parameters == 11_173_962


def test_published_parts_of_the_worksheet_count(published: ModelFlops) -> None:
    by_kind: dict[str, int] = {}
    for layer in published.layers:
        by_kind[layer.kind] = by_kind.get(layer.kind, 0) + (layer.flops_worksheet or 0)
    assert by_kind == {
        "conv": 555_417_600,
        "bn": 1_228_800,
        "relu": 0,
        "add": 0,
        "pool": 1_024,
        "linear": 5_120 + 10,
    }


def test_published_largest_layers(published: ModelFlops) -> None:
    largest = [layer.layer for layer in published.layers if layer.flops_worksheet == 37_748_736]
    assert max(layer.flops_worksheet or 0 for layer in published.layers) == 37_748_736
    assert largest[:10] == PUBLISHED_TEN
    assert largest[10:] == ["layer4.0.conv2", "layer4.1.conv1", "layer4.1.conv2"]
    assert f"{37_748_736 / published.total('worksheet'):.2%}" == "6.78%"


@pytest.mark.parametrize("width", [5, 64])
def test_layers_add_up_to_what_each_tool_says_of_the_whole_model(width: int) -> None:
    counted = count_flops(width)
    from fvcore.nn import FlopCountAnalysis  # after the count, which hides the warning of its first import

    model, image = build_model(width, seed=0).eval(), torch.zeros(1, 3, 32, 32)
    analysis = FlopCountAnalysis(model, image).unsupported_ops_warnings(False)
    assert counted.total("fvcore") == analysis.total()
    for convention, backward in (("two_per_mac", False), ("two_per_mac_training", True)):
        with FlopCounterMode(display=False) as counter:
            loss = model(image).sum()
            if backward:
                loss.backward()
        assert counted.total(convention) == counter.get_total_flops()  # type: ignore[arg-type]
    assert counted.num_parameters == sum(p.numel() for p in model.parameters())


def test_layers_by_hand(published: ModelFlops) -> None:
    layers = {layer.layer: layer for layer in published.layers}
    projection = layers["layer3.0.downsample.0"]
    assert (projection.input_shape, projection.output_shape) == ("128x16x16", "256x8x8")
    assert projection.macs == projection.flops_worksheet == projection.flops_fvcore == 128 * 256 * 8 * 8
    assert projection.flops_two_per_mac == 2 * projection.macs
    assert projection.flops_two_per_mac_training == 6 * projection.macs  # forward, and both gradients
    stem = layers["conv1"]
    assert stem.macs == 3 * 9 * 64 * 32 * 32
    assert stem.flops_two_per_mac_training == 4 * stem.macs  # no gradient of the image
    norm = layers["layer4.1.bn2"]
    assert norm.flops_worksheet == norm.flops_fvcore == 2 * 512 * 4 * 4
    assert (norm.macs, norm.flops_two_per_mac, norm.num_parameters) == (0, 0, 1024)
    pool = layers["avgpool"]
    assert (pool.input_shape, pool.output_shape, pool.flops_worksheet) == ("512x4x4", "512x1x1", 1024)
    assert (layers["fc"].input_shape, layers["fc"].output_shape, layers["fc"].num_parameters) == ("512", "10", 5130)


def test_layers_are_in_order_of_execution(published: ModelFlops) -> None:
    names = [layer.layer for layer in published.layers]
    assert names[:10] == [
        *("conv1", "bn1", "relu", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu1"),
        *("layer1.0.conv2", "layer1.0.bn2", "layer1.0.add", "layer1.0.relu2"),
    ]
    assert names[-2:] == ["avgpool", "fc"]
    assert len(names) == len(set(names)) == 67


def test_nothing_that_goes_uncounted_goes_unsaid(published: ModelFlops) -> None:
    assert published.unsupported_operators == {
        "worksheet": {"relu": 17, "add": 8},
        "fvcore": {"relu": 17, "add": 8, "aten::add_": 8},
        "two_per_mac": {"bn": 20, "relu": 17, "add": 8, "pool": 1},
    }


def test_model_table_is_in_the_schema_with_its_unsupported_operators() -> None:
    table = model_table(TrialConfig(width=8))
    counted = count_flops(8)
    assert table.schema.equals(SCHEMAS["model"])
    assert table["position"].to_pylist() == list(range(67))
    assert set(table["width"].to_pylist()) == {8}
    assert sum(table["flops_worksheet"].to_pylist()) == counted.total("worksheet")
    assert json.loads(table.schema.metadata[b"unsupported_operators"]) == counted.unsupported_operators
    assert table.schema.metadata[b"schema_version"] == SCHEMAS["model"].metadata[b"schema_version"]


def test_counting_is_silent_and_moves_no_random_stream(caplog: pytest.LogCaptureFixture) -> None:
    stream, levels = torch.get_rng_state(), [logging.getLogger(name).level for name in ("", "fvcore")]
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        count_flops(2)
        assert warnings.filters == filters
    assert not [record for record in caplog.records if "fvcore" in record.name]
    assert [logging.getLogger(name).level for name in ("", "fvcore")] == levels
    assert torch.equal(torch.get_rng_state(), stream)
