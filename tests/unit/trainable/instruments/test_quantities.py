"""Every quantity of the layer records against numpy in float64, one tensor and one step at a time, over real steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.unit.trainable.instruments.plain_loop import (
    Array,
    SeenStep,
    Snapshot,
    build_probe,
    build_training,
    copy_weights,
    run_steps,
)
from trainable.measuring.probe import LayerMeasurements

STEPS = [40, 41, 42]
CLOSE = 2e-5  # records are float32


@pytest.fixture(scope="module")
def run() -> tuple[Snapshot, list[SeenStep], LayerMeasurements]:
    """Initial weights, three steps as they were, and the same three as measured."""
    training = build_training()
    initial = copy_weights(training.model)
    probe = build_probe(training, len(STEPS))
    seen = run_steps(training, probe, len(STEPS))
    return initial, seen, probe.drain("trial", 2, STEPS)


def test_gradients(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    _, seen, measured = run
    for name, step, row in _rows(seen, measured.layers):
        magnitude = np.abs(step.gradients[name])
        assert row["gradient_mean_abs"] == pytest.approx(magnitude.mean(), rel=CLOSE)
        assert row["gradient_max_abs"] == pytest.approx(magnitude.max(), rel=CLOSE)
        assert row["gradient_min_abs"] == pytest.approx(magnitude.min(), rel=CLOSE)
        assert row["gradient_std_abs"] == pytest.approx(magnitude.std(ddof=1), rel=CLOSE)
        assert row["gradient_l2"] == pytest.approx(math.sqrt((magnitude**2).sum()), rel=CLOSE)


def test_weights_after_the_step(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    _, seen, measured = run
    for name, step, row in _rows(seen, measured.layers):
        weight = step.weights_after[name]
        assert row["weight_mean_abs"] == pytest.approx(np.abs(weight).mean(), rel=CLOSE)
        assert row["weight_max_abs"] == pytest.approx(np.abs(weight).max(), rel=CLOSE)
        assert row["weight_std"] == pytest.approx(weight.std(ddof=1), rel=1e-4)  # 1e-7 about a mean of 1
        assert row["weight_l2"] == pytest.approx(math.sqrt((weight**2).sum()), rel=CLOSE)


def test_displacement_from_the_initial_weights(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    initial, seen, measured = run
    for name, step, row in _rows(seen, measured.layers):
        moved = np.abs(step.weights_after[name] - initial[name])
        assert row["displacement_mean_abs"] == pytest.approx(moved.mean(), rel=CLOSE)
        assert row["displacement_max_abs"] == pytest.approx(moved.max(), rel=CLOSE)
        assert row["displacement_l2"] == pytest.approx(math.sqrt((moved**2).sum()), rel=CLOSE)


def test_update_is_the_change_of_one_step(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    _, seen, measured = run
    num_null = 0
    for name, step, row in _rows(seen, measured.layers):
        update = math.sqrt(((step.weights_after[name] - step.weights_before[name]) ** 2).sum())
        before = math.sqrt((step.weights_before[name] ** 2).sum())
        assert row["update_l2"] == pytest.approx(update, rel=CLOSE)
        if before == 0:  # biases start at 0
            assert row["update_ratio"] is None
            num_null += 1
        else:
            assert row["update_ratio"] == pytest.approx(update / before, rel=CLOSE)
    assert num_null == 21  # 20 batch norms and the linear layer, at the first step only


def test_angle_of_every_convolution(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    _, seen, measured = run
    num_angles = 0
    for name, step, row in _rows(seen, measured.layers):
        if row["kind"] != "conv":
            assert row["angular_update"] is None
            continue
        assert row["angular_update"] == pytest.approx(
            _angle(step.weights_before[name], step.weights_after[name]), rel=1e-4
        )
        num_angles += 1
    assert num_angles == 20 * len(STEPS)


def test_the_whole_gradient(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    _, seen, measured = run
    for at, step in enumerate(seen):
        tensors = [np.abs(gradient) for gradient in step.gradients.values()]
        assert measured.steps["gradient_mean_abs"][at] == pytest.approx(np.mean([t.mean() for t in tensors]), rel=CLOSE)
        assert measured.steps["gradient_max_abs"][at] == pytest.approx(np.max([t.max() for t in tensors]), rel=CLOSE)
        assert measured.steps["gradient_l2"][at] == pytest.approx(np.linalg.norm(np.concatenate(tensors)), rel=CLOSE)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-5, 1e-3, 0.1, 1.5, 3.0])
@pytest.mark.parametrize("stretch", [1.0, 0.999, 1.5])
def test_known_angles(angle: float, stretch: float) -> None:
    """Weights turned in a plane by an angle, and stretched: the angle comes out, however small."""
    training = build_training()
    weight = training.model.get_parameter("layer1.0.conv1.weight")
    probe = build_probe(training, 1)
    training.backward()
    with torch.no_grad():
        weight.zero_()
        weight[0] = 1.0  # axis one: elements of one and of zero, which a small turn keeps exact
        probe.before_step()
        _turn(weight, angle, stretch)
        probe.after_step()
    rows = probe.drain("trial", 1, [0]).layers.to_pylist()
    measured = next(row["angular_update"] for row in rows if row["layer"] == "layer1.0.conv1.weight")
    radial = abs(stretch - 1)  # float32 sums: a stretch hides angles of less than a thousandth of it
    assert measured == pytest.approx(angle, rel=1e-4, abs=1e-9 + 1e-3 * radial)


def test_zero_weights_have_no_angle_and_no_ratio() -> None:
    training = build_training()
    weight = training.model.conv1.weight
    probe = build_probe(training, 2)
    training.backward()
    with torch.no_grad():
        for before, after in ((0.0, 1.0), (1.0, 0.0)):
            weight.fill_(before)
            probe.before_step()
            weight.fill_(after)
            probe.after_step()
    grown, shrunk = (
        row for row in probe.drain("trial", 1, [0, 1]).layers.to_pylist() if row["layer"] == "conv1.weight"
    )
    assert grown["angular_update"] is None
    assert grown["update_ratio"] is None
    assert grown["update_l2"] == pytest.approx(math.sqrt(weight.numel()))
    assert shrunk["angular_update"] is None
    assert shrunk["update_ratio"] == pytest.approx(1.0)


def test_values_that_are_not_finite_are_recorded_and_not_null() -> None:
    """A diverging trial's last measurements say that it diverged, and where it began."""
    training = build_training()
    probe = build_probe(training, 1)

    def spoil() -> None:
        gradient = training.model.get_parameter("layer2.0.conv1.weight").grad
        assert gradient is not None
        gradient[0, 0, 0, 0] = torch.inf

    run_steps(training, probe, 1, after_backward=spoil)
    measured = probe.drain("trial", 1, [0])
    rows = {row["layer"]: row for row in measured.layers.to_pylist()}
    assert rows["layer2.0.conv1.weight"]["gradient_max_abs"] == math.inf
    assert rows["layer2.0.conv1.weight"]["gradient_l2"] == math.inf
    assert not math.isfinite(rows["layer2.0.conv1.weight"]["update_ratio"])
    assert math.isfinite(rows["layer2.0.conv2.weight"]["gradient_l2"])
    assert measured.steps["gradient_max_abs"].tolist() == [math.inf]


def test_a_single_element_has_no_deviation() -> None:
    training = build_training(width=1)
    probe = build_probe(training, 1)
    run_steps(training, probe, 1)
    for row in probe.drain("trial", 1, [0]).layers.to_pylist():
        assert (row["weight_std"] is None) == (row["num_elements"] == 1)
        assert (row["gradient_std_abs"] is None) == (row["num_elements"] == 1)


def _rows(seen: list[SeenStep], layers: pa.Table) -> list[tuple[str, SeenStep, dict[str, Any]]]:
    """Every row with the step it belongs to."""
    rows = layers.to_pylist()
    assert len(rows) == 62 * len(seen)
    return [(row["layer"], seen[STEPS.index(row["step"])], row) for row in rows]


def _angle(before: Array, after: Array) -> float:
    """From the chord between the unit vectors, which is exact for small angles."""
    chord = before / np.linalg.norm(before) - after / np.linalg.norm(after)
    return 2 * math.asin(float(np.linalg.norm(chord)) / 2)


def _turn(weight: torch.Tensor, angle: float, stretch: float) -> None:
    """Turn weights that are 1 in the first output channel and 0 elsewhere towards the second channel."""
    weight[0] = stretch * math.cos(angle)
    weight[1] = stretch * math.sin(angle)


def test_gradient_alignment(run: tuple[Snapshot, list[SeenStep], LayerMeasurements]) -> None:
    """With the measured step before, and none with a step of the epoch before."""
    _, seen, measured = run
    rows = measured.layers.to_pylist()
    per_step = len(rows) // len(STEPS)
    assert all(row["gradient_alignment"] is None for row in rows[:per_step])
    assert measured.steps["gradient_alignment"][0] is np.ma.masked
    for number in (1, 2):
        before, now = seen[number - 1].gradients, seen[number].gradients
        for row in rows[number * per_step : (number + 1) * per_step]:
            assert row["gradient_alignment"] == pytest.approx(
                _cosine(before[row["layer"]], now[row["layer"]]), abs=1e-5
            )
        whole = [np.concatenate(list(gradients.values())) for gradients in (before, now)]
        assert measured.steps["gradient_alignment"][number] == pytest.approx(_cosine(*whole), abs=1e-5)


def _cosine(left: Array, right: Array) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
