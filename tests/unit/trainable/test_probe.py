"""The probe as the loop uses it: when, how many rows, and above all that training never notices."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from tests.unit.trainable.instruments.plain_loop import build_probe, build_training, run_steps
from trainable.instrument import is_due
from trainable.instruments.noise_scale import measure_noise_scale
from trainable.measuring.parts import layer_groups, parameter_kinds
from trainable.measuring.probe import LayerProbe
from trainable.records.tables import SCHEMAS


def test_due_steps_are_counted_within_the_epoch() -> None:
    assert [step for step in range(781) if is_due(step, 100)] == [0, 100, 200, 300, 400, 500, 600, 700]
    assert [step for step in range(4) if is_due(step, 1)] == [0, 1, 2, 3]
    assert not any(is_due(step, 0) for step in range(1000))


def test_training_is_bit_identical_with_instruments_on_and_off() -> None:
    states, streams = [], []
    for instrumented in (False, True):
        torch.manual_seed(5)
        training = build_training()
        probe = build_probe(training, 2)
        for step in range(6):
            training.backward()
            due = instrumented and is_due(step, 3)
            if due:
                probe.before_step()
            training.optimizer.step()
            if due:
                probe.after_step()
        if instrumented:
            assert len(probe.drain("trial", 1, [0, 3]).layers) == 2 * 62
            measure_noise_scale(training.model, torch.randn(64, 3, 32, 32), torch.arange(64) % 10)
            torch.manual_seed(5)
        training.backward()
        training.optimizer.step()
        momentum = [s["momentum_buffer"] for s in training.optimizer.state_dict()["state"].values()]
        states.append([*training.model.state_dict().values(), *momentum])
        streams.append(torch.get_rng_state())
    assert len(states[0]) == 62 + 60 + 62
    assert all(torch.equal(bare, instrumented) for bare, instrumented in zip(*states, strict=True))
    assert torch.equal(*streams)


def test_rows_are_in_the_schema_and_in_order_of_step_and_parameter() -> None:
    training = build_training()
    probe = build_probe(training, 5)
    run_steps(training, probe, 2)
    table = probe.drain("0123456789abcdef", 3, [1600, 1700]).layers
    assert table.schema.equals(SCHEMAS["layers"], check_metadata=True)
    rows = table.to_pylist()
    names = [name for name, _ in training.model.named_parameters()]
    assert [(row["step"], row["layer"]) for row in rows] == [(step, name) for step in (1600, 1700) for name in names]
    assert {(row["trial_id"], row["epoch"]) for row in rows} == {("0123456789abcdef", 3)}
    kinds, groups = parameter_kinds(training.model), layer_groups(training.model, names)
    for row in rows:
        assert (row["kind"], row["group"]) == (kinds[row["layer"]], groups[row["layer"]])
        assert row["num_elements"] == training.model.get_parameter(row["layer"]).numel()
    pa.concat_tables([table, table]).unify_dictionaries().validate(full=True)


def test_a_drained_probe_starts_afresh() -> None:
    training = build_training()
    probe = build_probe(training, 2)
    run_steps(training, probe, 2)
    first = probe.drain("trial", 1, [0, 1])
    seen = run_steps(training, probe, 1)
    second = probe.drain("trial", 2, [2])
    assert len(second.layers) == 62
    assert len(second.steps["gradient_l2"]) == 1
    largest = max(abs(gradient).max() for gradient in seen[0].gradients.values())
    assert second.steps["gradient_max_abs"][0] == pytest.approx(largest)
    assert len(first.layers) == 2 * 62  # the first table is a copy: later measurements do not reach it
    assert first.steps["gradient_max_abs"][0] != second.steps["gradient_max_abs"][0]


def test_misuse_is_said() -> None:
    training = build_training()
    probe = build_probe(training, 1)
    with pytest.raises(RuntimeError, match="after the backward pass"):
        probe.before_step()
    run_steps(training, probe, 1)
    with pytest.raises(ValueError, match="2 steps are named for 1 measurements"):
        probe.drain("trial", 1, [0, 1])
    with pytest.raises(RuntimeError, match="drain the probe"):
        probe.before_step()


def test_nothing_to_measure_takes_no_memory_and_gives_no_rows() -> None:
    training = build_training()
    probe = build_probe(training, 0)
    assert probe.buffer_bytes == 0
    measured = probe.drain("trial", 1, [])
    assert measured.layers.equals(SCHEMAS["layers"].empty_table())
    assert len(measured.steps["gradient_l2"]) == 0


def test_what_is_held_is_the_initial_weights_the_last_gradients_and_a_little() -> None:
    """At the published width, with the published schedule; a third copy is there around a measured step alone."""
    training = build_training(width=64)
    weights_bytes = sum(4 * p.numel() for p in training.model.parameters())
    assert weights_bytes == 44_695_848
    probe = build_probe(training, 8)
    held_bytes = probe.buffer_bytes
    assert 2 * weights_bytes < held_bytes < 2 * 46_000_000
    training.backward()
    probe.before_step()
    assert held_bytes + weights_bytes < probe.buffer_bytes < held_bytes + 46_000_000
    training.optimizer.step()
    probe.after_step()
    assert probe.buffer_bytes == held_bytes


def test_the_initial_weights_may_be_others_than_the_present() -> None:
    training = build_training()
    probe = LayerProbe(training.model, [torch.zeros_like(p) for p in training.model.parameters()], 1)
    run_steps(training, probe, 1)
    for row in probe.drain("trial", 1, [0]).layers.to_pylist():
        assert row["displacement_mean_abs"] == row["weight_mean_abs"]
        assert row["displacement_l2"] == pytest.approx(row["weight_l2"], rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_measurement_waits_for_the_gpu() -> None:
    training = build_training(device="cuda")
    probe = build_probe(training, 3)
    training.backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            probe.before_step()
            training.optimizer.step()
            probe.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(probe.drain("trial", 1, [0, 1, 2]).layers) == 3 * 62
