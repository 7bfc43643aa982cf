"""A simulated user with 0, 1 and 4 GPUs who gives no option: what a plan says, and what Ray's trials get.

The GPUs are NVML's and Ray's alone, so trials train on the CPU, which $STUDY_CPU_FOR_GPU allows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import analysis
from study.driver.device import CPU_FOR_GPU_VARIABLE

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
GRID = """
name = "small"
seeds = [0, 1]
[base]
dataset = "synthetic"
epochs = 1
width = 2
train_limit = 64
test_limit = 50
noise_scale_every_epochs = 0
[grid]
batch_size = [32, 64]
"""


def run(folder: Path, gpus: int, *arguments: str, expect: int = 0, grid: str = GRID, **variables: str) -> str:
    (folder / "small.toml").write_text(grid)
    (folder / "tmp").mkdir(exist_ok=True)
    devices = [{"uuid": f"GPU-{i}", "name": "NVIDIA A100", "cores": 6912, "clock_mhz": 1410} for i in range(gpus)]
    environment = {
        **os.environ, "HOME": str(folder), "TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": "/tmp", CPU_FOR_GPU_VARIABLE: "1", **variables,
        "PYTHONPATH": f"{ROOT / 'tests/support/fake_nvml'}:{ROOT}", "FAKE_NVML": json.dumps(devices),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "study.run", "--grid", "small.toml", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("gpus", "arguments", "said"),
    [
        (0, (), ("0 GPU each", "judged by the speed of the reference machine's cores")),
        (0, ("--gpus-per-trial", "0"), ("0 GPU each",)),
        (1, (), ("4 trials, 1 at a time, ", "1 x NVIDIA A100, 1 GPU a trial, bf16   ",
                 "a guess, bound by launches: the host needs 3.4 ms for a step (eager), assumed")),
        (1, ("--gpus-per-trial", "0"), ("note      1 GPU is here but not used, as asked: --gpus-per-trial 0",)),
        (4, ("--max-concurrent", "2"), ("2 x NVIDIA A100, 1 GPU a trial, bf16   ",)),
        (4, ("--gpus-per-trial", "0.5", "--max-concurrent", "1"), ("1 x NVIDIA A100, 0.5 GPU a trial, bf16   ",)),
        (4, ("--set", "precision=fp32"), (" GPU a trial, fp32   ",)),
        (4, ("--set", "width=64"), ("a guess: 150% of the 19 TFLOP/s that NVIDIA A100 has in fp32, assumed for bf16",)),
    ],
)  # fmt: skip
def test_a_plan_says_what_trials_run_on(
    gpus: int, arguments: tuple[str, ...], said: tuple[str, ...], tmp_path: Path
) -> None:
    plan = run(tmp_path, gpus, "--plan", *arguments)
    assert all(words in plan for words in said), plan


@pytest.mark.parametrize(
    ("gpus", "arguments", "variables", "said"),
    [
        (0, ("--gpus-per-trial", "1"), {}, "error: --gpus-per-trial 1: 0 GPUs are visible here"),
        (4, ("--gpus-per-trial", "1"), {"CUDA_VISIBLE_DEVICES": "none"}, "CUDA_VISIBLE_DEVICES=none shows none of 4"),
        (4, ("--gpus-per-trial", "2"), {}, "error: --gpus-per-trial 2: a trial trains on one GPU"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(
    gpus: int, arguments: tuple[str, ...], variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    output = run(tmp_path, gpus, *arguments, expect=2, **variables)
    assert said in output
    assert len(output.splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_a_gpu_that_fails_its_check_trains_nothing(tmp_path: Path) -> None:
    output = run(tmp_path, 1, expect=2, STUDY_CPU_FOR_GPU="")
    assert "error: device check FAILED" in output
    assert "comes up: RuntimeError: " in output
    assert "--gpus-per-trial 0 trains on CPUs" in output


def test_a_plan_is_calibrated_on_what_the_trials_will_use(tmp_path: Path) -> None:
    """The GPU fails its check, so a plan is refused, or times the CPU that takes its place, as asked."""
    assert "error: device check FAILED" in run(tmp_path, 1, "--plan", "--calibrate", expect=2, STUDY_CPU_FOR_GPU="")
    said = run(tmp_path, 1, "--plan", "--calibrate", grid=GRID.replace("[32, 64]", "[64]"))
    assert "; CPUs take its place, as asked" in said
    assert "of training, from steps timed on this machine" in said


def test_trials_get_a_gpu_each_by_its_uuid(tmp_path: Path) -> None:
    said = run(tmp_path, 4, "--no-report", CUDA_VISIBLE_DEVICES="3,1")
    assert "training will take about " in said
    assert "x 1 GPU, a guess, bound by launches" in said
    study = analysis.load_study(tmp_path / "results" / "small")
    assert set(study.trials["gpu_ids"]) <= {"GPU-3", "GPU-1"}
    assert set(study.trials["config.precision"]) == {"bf16"}
    assert set(study.trials["status"]) == {"completed"}
    assert study.info.environment["num_gpus"] == 2
