"""Plans: resources are shared as documented, costs follow from the configuration, and nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from study.plan import description
from study.plan import estimate as plan
from study.plan.epoch_times import REFERENCE_IMAGES_PER_S
from study.plan.resources import Machine, ResourceError, TrialResources, divide_resources, has_native_bf16
from study.plan.units import format_duration
from study.spec.grid_file import load_grid
from study.spec.study_spec import build_spec
from trainable.config import TrialConfig


@pytest.mark.parametrize(
    ("machine", "num_trials", "options", "expected"),
    [
        (Machine(2, 0), 4, {}, (1, 0, 2)),
        (Machine(2, 0), 1, {}, (2, 0, 1)),
        (Machine(16, 0), 2, {}, (8, 0, 2)),
        (Machine(16, 0), 100, {"max_concurrent": 3}, (5, 0, 3)),
        (Machine(1, 0), 5, {}, (1, 0, 1)),
        (Machine(16, 4), 100, {"gpus_per_trial": 1.0}, (4, 1, 4)),
        (Machine(16, 4), 2, {"gpus_per_trial": 1.0}, (8, 1, 2)),
        (Machine(16, 4), 100, {"gpus_per_trial": 0.5}, (2, 0.5, 8)),
        (Machine(2, 4), 100, {"gpus_per_trial": 0.25}, (1, 0.25, 2)),
    ],
)
def test_the_machine_is_shared_among_the_trials(
    machine: Machine, num_trials: int, options: dict[str, float], expected: tuple[int, float, int]
) -> None:
    assert divide_resources(machine, num_trials, **options) == TrialResources(*expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus_per_trial": 1.0}, "0 GPUs are visible"),
        ({"gpus_per_trial": -1.0}, "give 1, a part of one"),
        ({"gpus_per_trial": 1.5}, "a trial trains on one GPU"),
        ({"gpus_per_trial": float("nan")}, "give 1, a part of one"),
        ({"gpus_per_trial": float("inf")}, "a trial trains on one GPU"),
        ({"max_concurrent": 0}, "at least one trial"),
    ],
)
def test_more_than_there_is_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        divide_resources(Machine(2, 0), 4, **options)  # type: ignore[arg-type]


def test_times_are_results_only_where_nothing_is_shared() -> None:
    assert TrialResources(2, 0, 1).timing_exclusive
    assert not TrialResources(1, 0, 2).timing_exclusive
    assert TrialResources(1, 1, 4).timing_exclusive
    assert not TrialResources(1, 0.5, 2).timing_exclusive


def test_the_cost_of_the_paper_grid_is_the_published_count() -> None:
    configs = build_spec(load_grid("paper")).trial_configs()
    cost = plan.estimate_cost(configs, TrialResources(1, 0, 2))
    assert cost.train_flops == pytest.approx(2 * 25 * 166.4e12, rel=1e-3)
    assert cost.time_s is not None
    assert cost.time_s == pytest.approx(25 * (50_000 + 10_000 / 3) / REFERENCE_IMAGES_PER_S[64])


def test_costs_scale_with_what_they_depend_on() -> None:
    resources = TrialResources(1, 0, 1)
    base = plan.estimate_cost([TrialConfig(width=16)], resources)
    assert plan.estimate_cost([TrialConfig(width=16)] * 3, resources).time_s == 3 * (base.time_s or 0)
    half = plan.estimate_cost([TrialConfig(width=16, train_limit=25_000, test_limit=5_000)], resources)
    assert half.time_s == pytest.approx((base.time_s or 0) / 2)
    assert plan.estimate_cost([TrialConfig(width=32)], resources).train_flops == 4 * base.train_flops
    assert plan.estimate_cost([TrialConfig()], TrialResources(1, 1, 1)).time_s is None


def test_too_little_space_is_said_before_the_start(tmp_path: Path) -> None:
    plan.check_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(plan.NoSpaceError, match=r"free, the study needs about 1000000\.0 TB"):
        plan.check_space(tmp_path, 10**18)


def test_the_header_says_what_runs_where() -> None:
    spec = build_spec(load_grid("paper"))
    line = description.describe_header(spec, TrialResources(1, 0, 2), Machine(2, 0), "results/paper")
    assert line == "paper   CIFAR-10 50,000/10,000   ResNet18 11.2 M   2 cells x 1 seed   2 CPU cores   results/paper"


def test_unused_gpus_are_said() -> None:
    assert description.gpu_notes(Machine(8, 2), TrialResources(4, 0, 2)) == [
        "2 GPUs are here but not used, as asked: --gpus-per-trial 0"
    ]
    assert description.gpu_notes(Machine(8, 2), TrialResources(4, 1, 2)) == []
    assert description.gpu_notes(Machine(8, 0), TrialResources(4, 0, 2)) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.2, "5.2 s"),
        (89, "89 s"),
        (120, "2 min"),
        (5000, "83 min"),
        (7200, "2 h"),
        (68_400, "19 h"),
        (400_000, "4.6 days"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_plan_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from study.run import main; main(['--grid', 'paper', '--set', 'dataset=synthetic', '--plan']);"
        "print([m for m in ('torch', 'ray', 'wandb', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_bf16_is_offered_where_the_cores_compute_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: AMD EPYC\nflags\t\t: fpu sse avx512f avx512_bf16\nbugs\t: none\n")
    assert has_native_bf16(info)
    info.write_text("flags\t\t: fpu sse avx512f\nbugs\t: avx512_bf16\n")
    assert not has_native_bf16(info)
    assert not has_native_bf16(tmp_path / "absent")
    spec, machine, on_cpu = build_spec(load_grid("paper")), Machine(2, 1), TrialResources(1, 0, 2)
    monkeypatch.setattr(description, "has_native_bf16", lambda: True)
    assert "--set precision=bf16" in description.offer_bf16(spec, machine, on_cpu)[0]
    assert description.offer_bf16(spec, machine, TrialResources(1, 1, 1)) == []
    in_bf16 = build_spec(load_grid("paper"), overrides={"precision": "bf16"})
    assert description.offer_bf16(in_bf16, machine, on_cpu) == []
    monkeypatch.setattr(description, "has_native_bf16", lambda: False)
    assert description.offer_bf16(spec, machine, on_cpu) == []
