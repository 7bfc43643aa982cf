"""Times of plans without timing: guessed from a GPU's peak or the host, corrected by earlier trials there, never by what cannot be."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analysis.records.study_folder import StudyFolder
from study.plan.earlier_trials import read_epoch_times
from study.plan.epoch_times import REFERENCE_BASIS, EarlierTrial, EpochTimes, Hardware, find_hardware, guess_epoch_s
from study.plan.estimate import estimate_cost
from study.plan.gpus import Gpu
from study.plan.resources import Machine, TrialResources
from trainable.config import TrialConfig
from trainable.records.tables import build_table
from trainable.records.trial_state import TrialState

H200 = Gpu("GPU-a", "NVIDIA H200", peak_tflops=66.9)
L4 = Gpu("GPU-b", "NVIDIA L4", peak_tflops=30.3)
ON_H200 = Hardware("NVIDIA H200", 4, 1.0, True, 66.9)
WIDE = TrialConfig(precision="bf16", batch_size=128)
EPOCH_TFLOP = 166.4 * (1 + 10_000 / 50_000 / 3)  # with the evaluation


def test_a_guess_is_of_the_peak_or_of_the_hosts_time() -> None:
    assert guess_epoch_s(WIDE, ON_H200) == pytest.approx(EPOCH_TFLOP / (1.5 * 66.9), rel=1e-3)
    assert guess_epoch_s(replace(WIDE, precision="published"), ON_H200) == pytest.approx(
        EPOCH_TFLOP / (0.6 * 66.9), rel=1e-3
    )
    narrow = replace(WIDE, width=16)
    assert guess_epoch_s(narrow, ON_H200) == pytest.approx(390 * 0.0034)
    assert guess_epoch_s(replace(narrow, engine="graph"), ON_H200) == pytest.approx(390 * 0.001)
    assert guess_epoch_s(narrow, replace(ON_H200, trials_per_gpu=4)) == pytest.approx(390 * 0.0034), (
        "the host has cores"
    )
    shared = guess_epoch_s(WIDE, replace(ON_H200, trials_per_gpu=4))
    assert shared == pytest.approx(4 * (guess_epoch_s(WIDE, ON_H200) or 0))
    said = EpochTimes(ON_H200).estimate_s(WIDE)[1]
    assert said == "a guess: 150% of the 67 TFLOP/s that NVIDIA H200 has in fp32, assumed for bf16"
    assert "bound by launches: the host needs 3.4 ms for a step (eager)" in EpochTimes(ON_H200).estimate_s(narrow)[1]


@pytest.mark.parametrize(
    ("machine", "resources", "hardware"),
    [
        (Machine(8, 1, gpus=(H200,)), TrialResources(8, 1, 1), Hardware("NVIDIA H200", 8, 1, True, 66.9, 1)),
        (Machine(8, 1, gpus=(H200,)), TrialResources(2, 0.25, 4), Hardware("NVIDIA H200", 2, 0.25, False, 66.9, 4)),
        (
            Machine(8, 4, gpus=(H200, H200, H200, L4)),
            TrialResources(2, 1, 4),
            Hardware("NVIDIA L4", 2, 1, True, 30.3, 1),
        ),
        (
            Machine(8, 4, gpus=(H200, H200, H200, L4)),
            TrialResources(2, 1, 3),
            Hardware("NVIDIA H200", 2, 1, True, 66.9, 1),
        ),
    ],
)
def test_the_hardware_is_the_slowest_gpu_that_is_used(
    machine: Machine, resources: TrialResources, hardware: Hardware
) -> None:
    assert find_hardware(machine, resources) == hardware


def test_four_gpus_take_a_quarter_of_the_time_and_an_unknown_peak_is_said() -> None:
    configs = [replace(WIDE, seed=seed) for seed in range(4)]
    times = EpochTimes(ON_H200)
    one, four = (estimate_cost(configs, TrialResources(4, 1, slots), times=times).time_s for slots in (1, 4))
    assert one == pytest.approx(4 * (four or 0))
    unknown = estimate_cost(configs, TrialResources(4, 1, 1), times=EpochTimes(replace(ON_H200, peak_tflops=None)))
    assert unknown.time_s is None
    assert "--calibrate times them" in unknown.basis


def write_study(
    results: Path, name: str, configs: Sequence[TrialConfig], epoch_s: float, change: Callable[[dict[str, Any]], None] = lambda row: None,
    **placed: Any,
) -> Path:  # fmt: skip
    """A study whose trials took so many seconds for each of two epochs; `change` tampers with the rows of its trials."""
    where = {"hardware": "NVIDIA H200", "num_threads": 4, "gpu_share": 1.0, "timing_exclusive": True, **placed}
    states = [TrialState(config, "data", status="completed", **where) for config in configs]
    rows = [state.to_row() for state in states]
    for row in rows:
        change(row)
    folder = StudyFolder(results / name)
    folder.path.mkdir(parents=True)
    epochs = [
        {"trial_id": row["trial_id"], "epoch": epoch, "train_time_s": epoch_s - 0.5, "eval_time_s": 0.4, "instrument_time_s": 0.1}
        for row in rows for epoch in (1, 2)
    ]  # fmt: skip
    folder.write_records("trials", build_table("trials", rows))
    folder.write_records("epochs", build_table("epochs", epochs))
    return folder.path


def test_earlier_trials_on_the_device_correct_the_guess(tmp_path: Path) -> None:
    write_study(tmp_path, "a", [WIDE, replace(WIDE, seed=1)], 2.0)
    write_study(tmp_path, "b", [replace(WIDE, width=32)], 1.5)
    times = read_epoch_times(str(tmp_path), ON_H200)
    assert times.left_out == ()
    found_s, said = times.estimate_s(replace(WIDE, seed=7, learning_rate=0.3))
    assert found_s == pytest.approx(2.0)
    assert said == "as 2 earlier trials took on this device (NVIDIA H200, bf16)"
    assert times.estimate_s(replace(WIDE, train_limit=25_000, test_limit=5_000))[0] == pytest.approx(1.0), (
        "half the images"
    )
    other_s, said = times.estimate_s(replace(WIDE, width=128))
    assert other_s == pytest.approx(2.0 * 4), "by computation"
    assert said.endswith("scaled from width 64 and batch 128)")
    for unlike in (
        {"precision": "fp32"}, {"engine": "graph"}, {"optimizer": "adamw"}, {"randaugment": 2}, {"dataset": "fashion_mnist"},
    ):  # fmt: skip
        assert times.estimate_s(replace(WIDE, **unlike))[1].startswith("a guess"), unlike
    unknown = read_epoch_times(str(tmp_path), replace(ON_H200, peak_tflops=None))
    assert unknown.estimate_s(replace(WIDE, width=128))[0] == pytest.approx(8.0), "by computation alone"


def test_images_of_another_size_are_scaled_in_a_guess_and_never_compared(tmp_path: Path) -> None:
    small = replace(WIDE, dataset="images", train_limit=1000, test_limit=0)
    large = replace(small, image_size=64)
    assert guess_epoch_s(large, Hardware()) == pytest.approx(4 * guess_epoch_s(small, Hardware()))  # type: ignore[operator]
    hardware = Hardware("AMD EPYC", 1)
    times = EpochTimes(hardware, (EarlierTrial(small, 5.0),))
    assert times.estimate_s(small)[0] == pytest.approx(5.0)
    assert times.estimate_s(large) == (guess_epoch_s(large, hardware), REFERENCE_BASIS)
    nobody = replace(small, model="vgg11")
    assert times.estimate_s(nobody)[0] is None
    cost = estimate_cost([small, nobody], TrialResources(1, 0, 1), times=times)
    assert (cost.time_s, "earlier trial" in cost.basis) == (None, False), "why there is no time, not what the rest took"


@pytest.mark.parametrize(
    "placed", [{"hardware": "NVIDIA A100"}, {"gpu_share": 0.5}, {"timing_exclusive": False}, {"hardware": None}]
)
def test_trials_of_other_places_do_not_count(placed: dict[str, Any], tmp_path: Path) -> None:
    write_study(tmp_path, "a", [WIDE], 2.0, **placed)
    assert read_epoch_times(str(tmp_path), ON_H200) == EpochTimes(ON_H200)


def test_cpus_are_corrected_too(tmp_path: Path) -> None:
    config, hardware = TrialConfig(width=16), Hardware("AMD EPYC", 2, 0.0, True)
    guessed_s = guess_epoch_s(config, hardware) or 0.0
    write_study(tmp_path, "a", [config], guessed_s / 2, hardware="AMD EPYC", num_threads=2, gpu_share=0.0)
    write_study(tmp_path, "b", [config], guessed_s / 3, hardware="AMD EPYC", num_threads=1, gpu_share=0.0)
    cost = estimate_cost([config], TrialResources(2, 0, 1), times=read_epoch_times(str(tmp_path), hardware))
    assert cost.time_s == pytest.approx(25 * guessed_s / 2)
    assert cost.basis == "as 1 earlier trial took on this device (AMD EPYC, fp32)"


def truncate(path: Path) -> None:
    file = path / "epochs.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def other_schema(path: Path) -> None:
    folder = StudyFolder(path)
    table = folder.read_records("trials")
    import pyarrow.parquet as pq

    pq.write_table(table.replace_schema_metadata({"schema_version": "999"}), folder.records("trials"))


def other_times(seconds: float | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        folder = StudyFolder(path)
        table = folder.read_records("epochs")
        at = table.column_names.index("train_time_s")
        folder.write_records(
            "epochs", table.set_column(at, "train_time_s", pa.array([seconds] * len(table), pa.float64()))
        )

    return change


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (truncate, "not a readable Parquet file"),
        (other_schema, "schema version 999"),
        (other_times(-1.0), "took -1.0 s"),
        (other_times(math.nan), "took nan s"),
        (other_times(math.inf), "took inf s"),
        (other_times(None), "took None s"),
        (other_times(1e6), "cannot be: about 1.8 s are guessed"),
    ],
)
def test_a_study_that_cannot_be_believed_is_left_out_with_a_reason(
    tamper: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    write_study(tmp_path, "good", [WIDE], 2.0)
    tamper(write_study(tmp_path, "tampered", [WIDE], 3.0))
    times = read_epoch_times(str(tmp_path), ON_H200)
    (said,) = times.left_out
    assert said.startswith("earlier times of tampered are not used: ")
    assert reason in said
    assert len(said.splitlines()) == 1
    assert times.estimate_s(WIDE)[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config.width": 16}, "does not match its id"),
        ({"trial_id": "0" * 16}, "does not match its id"),
        ({"config.width": -1}, "width=-1 is not a whole number"),
        ({"config.precision": "fp8"}, "precision='fp8'"),
    ],
)
def test_a_trial_that_is_not_what_it_says_leaves_its_study_out(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    write_study(tmp_path, "tampered", [WIDE], 3.0, change=lambda row: row.update(change))
    times = read_epoch_times(str(tmp_path), ON_H200)
    assert reason in times.left_out[0]
    assert times.earlier == ()


def test_only_the_latest_studies_are_read(tmp_path: Path) -> None:
    for number in range(52):
        path = write_study(tmp_path, f"s{number}", [replace(WIDE, seed=number)], 2.0)
        os.utime(path / "epochs.parquet", (number, number))
    assert {trial.config.seed for trial in read_epoch_times(str(tmp_path), ON_H200).earlier} == set(range(2, 52))


def test_a_url_or_a_cluster_has_no_earlier_trials(tmp_path: Path) -> None:
    write_study(tmp_path, "a", [WIDE], 2.0)
    assert read_epoch_times("s3://bucket/studies", ON_H200) == EpochTimes(ON_H200)
    unknown = replace(ON_H200, device=None)
    assert read_epoch_times(str(tmp_path), unknown) == EpochTimes(unknown)
