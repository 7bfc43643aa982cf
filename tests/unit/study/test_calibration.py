"""Calibrated plans: an epoch costs what its parts cost, trials fill the slots in their order, predictions are held to account."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from study.plan import calibration, description
from study.plan import estimate as plan
from study.plan.calibration import Speed, actual_training_s, calibrate, speed_key
from study.plan.epoch_times import EpochTimes, find_hardware
from study.plan.gpus import VISIBLE_DEVICES, Gpu, GpuTakenError, claimed_gpus
from study.plan.resources import Machine, ResourceError, TrialResources
from trainable.config import TrialConfig
from trainable.data.data_set import load_data
from trainable.records.trial_state import TrialState

SPEED = Speed(
    step_s=0.1,
    measurement_s=0.5,
    epoch_instruments_s={"noise_scale": 3.0},
    evaluated_image_s=0.001,
    peak_memory_bytes=10**9,
)


def test_an_epoch_costs_its_steps_measurements_noise_scale_and_evaluation() -> None:
    config = TrialConfig(batch_size=64)  # 781 steps on 50,000 images, instruments at 0, 100, ..., 700 and 780
    assert SPEED.epoch_s(config, 50_000, 10_000) == pytest.approx(78.1 + 9 * 0.5 + 3.0 + 10.0)
    every_third = replace(config, noise_scale_every_epochs=3, instrument_every_steps=0)
    assert SPEED.epoch_s(every_third, 50_000, 0) == pytest.approx(78.1 + 1.0)
    assert SPEED.epoch_s(replace(every_third, noise_scale_every_epochs=0), 50_000, 0) == pytest.approx(78.1)


def test_the_wall_time_is_that_of_the_slots_filled_in_order() -> None:
    config = TrialConfig(
        dataset="synthetic", batch_size=100, train_limit=1_000, test_limit=10, epochs=2, instrument_every_steps=0,
        noise_scale_every_epochs=0,
    )  # fmt: skip
    short, long = replace(config, seed=1), replace(config, epochs=6)
    speeds = {speed_key(config): replace(SPEED, evaluated_image_s=0.0)}  # 1 s an epoch
    cost = plan.estimate_cost([short, long, short, short], TrialResources(1, 0, 2), speeds)
    assert cost.time_s == pytest.approx(6.0), "2, 2 and 2 s on one slot, 6 s on the other"
    assert cost.peak_memory_bytes == 2 * 10**9
    assert "from steps timed on this machine" in description.describe_cost(cost, TrialResources(1, 0, 2), 4)[-2]
    assert plan.estimate_cost([short, long], TrialResources(1, 0, 1), speeds).time_s == pytest.approx(8.0)


def test_predictions_are_held_against_what_happened() -> None:
    cost = plan.Cost(0.0, 600.0, 0, basis=plan.CALIBRATED)
    assert description.compare_time(cost, 660.0) == (
        "training took 11 min; 10 min were predicted, from steps timed on this machine (+10%)"
    )
    assert description.compare_time(plan.Cost(0.0, 59.0, 0), 61.0) == "training took 61 s"
    assert description.compare_time(cost, None) is None
    assert description.compare_time(plan.Cost(0.0, None, 0), 660.0) is None


def test_what_is_left_of_a_trial_with_warm_up_can_be_estimated() -> None:
    config = TrialConfig(epochs=25, warmup_epochs=3)
    assert [plan.rest_of_trial(config, done).epochs for done in (0, 23, 25)] == [25, 2, 1]


def test_the_actual_time_runs_from_the_first_start_to_the_last_end_of_this_attempt() -> None:
    fresh = TrialState(TrialConfig(seed=0), "data")
    resumed = TrialState(TrialConfig(seed=1), "data", wall_time_s=100.0)
    idle = TrialState(TrialConfig(seed=2), "data", wall_time_s=50.0, ended_at="2026-01-01T00:00:00+00:00")
    after = [
        replace(fresh, wall_time_s=20.0, ended_at="2026-01-02T00:00:20+00:00"),  # from second 0 on
        replace(resumed, wall_time_s=130.0, ended_at="2026-01-02T00:00:45+00:00"),  # from second 15 on
        idle,
    ]
    assert actual_training_s([fresh, resumed, idle], after) == pytest.approx(45.0)
    assert actual_training_s([idle], [idle]) is None


GPUS = (Gpu("GPU-a", "NVIDIA H200"), Gpu("GPU-b", "NVIDIA H200"))
TINY = TrialConfig(dataset="synthetic", width=1, batch_size=64)


@pytest.fixture(autouse=True)
def own_claims(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_gpus_are_timed_on_themselves_and_claimed_meanwhile() -> None:
    """Without a driver: what the processes run asks for CUDA and nothing else."""
    machine, on_gpus = Machine(2, 2, gpus=GPUS), TrialResources(1, 1, 2)
    times = EpochTimes(find_hardware(machine, on_gpus))
    with pytest.raises(
        ResourceError, match=r"--calibrate: the timing ended early \((RuntimeError|AssertionError|BrokenBarr)"
    ):
        calibrate([TINY], load_data("synthetic"), machine, TrialResources(1, 1, 1), times)
    with claimed_gpus(GPUS, 1, shared=False), pytest.raises(GpuTakenError, match="1 of the 2 GPUs"):
        calibrate([TINY], load_data("synthetic"), machine, on_gpus, times)


def test_cpus_are_timed_in_the_place_of_gpus_that_are_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TIMED_S", 0.01)
    machine, on_gpus = Machine(2, 2, gpus=GPUS), TrialResources(1, 0.5, 1)
    times = EpochTimes(find_hardware(machine, on_gpus))
    (speed,) = calibrate([TINY], load_data("synthetic"), machine, on_gpus, times, unfit={"NVIDIA H200"}).values()
    cost = plan.estimate_cost([TINY], on_gpus, {speed_key(TINY): speed}, times)
    assert cost.time_s is not None
    assert description.describe_cost(cost, on_gpus, 1)[-1].endswith(" of each GPU")


def test_each_process_sees_the_gpu_of_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_DEVICES, "before")
    monkeypatch.setattr(calibration, "_device", "cpu")
    monkeypatch.setattr(calibration, "_barrier", None)
    gpus: Any = queue.SimpleQueue()
    for gpu in (None, "GPU-b"):
        gpus.put(gpu)
    calibration._join(threading.Barrier(1), gpus, ())
    assert (os.environ[VISIBLE_DEVICES], calibration._device) == ("before", "cpu")
    calibration._join(threading.Barrier(1), gpus, ())
    assert (os.environ[VISIBLE_DEVICES], calibration._device) == ("GPU-b", "cuda")


def test_every_kind_of_trial_is_timed_with_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TIMED_S", 0.05)
    config = TrialConfig(dataset="synthetic", width=1, batch_size=64)
    kinds = [config, replace(config, seed=5), replace(config, learning_rate=0.3), replace(config, batch_size=128)]
    machine, resources = Machine(2, 0), TrialResources(1, 0, 2)
    speeds = calibrate(kinds, load_data("synthetic"), machine, resources, EpochTimes(find_hardware(machine, resources)))
    assert set(speeds) == {speed_key(kind) for kind in kinds}
    assert len(speeds) == 2, "learning rate and seed cost nothing"
    for dearer in ({"optimizer": "adamw"}, {"randaugment": 2}, {"dataset": "fashion_mnist"}, {"width": 2}):
        assert speed_key(replace(config, **dearer)) != speed_key(config)
    for speed in speeds.values():
        assert (
            min(speed.step_s, speed.measurement_s, speed.epoch_instruments_s["noise_scale"], speed.evaluated_image_s)
            > 0
        )
        assert speed.peak_memory_bytes > 10**8, "torch alone takes more"
