"""Engines held against eager: bit for bit where a CPU can show it, resumed from one to another, and refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
import sys
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.images import make_image_data
from trainable.config import Engine, Precision, TrialConfig, trial_id
from trainable.data.image_data import ImageData
from trainable.device import engine_check
from trainable.device import report as device_report
from trainable.device.engine_check import Chosen, check_engine, choose_engine
from trainable.training import engines
from trainable.training.engines import CompiledEngine, EagerEngine, GraphEngine
from trainable.training.loop import train
from trainable.trial import Placement, run_trial

CONFIG = TrialConfig(
    dataset="synthetic", width=2, epochs=2, batch_size=32, learning_rate=0.05, instrument_every_steps=2
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is remembered, as in a new process of a new user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine_check._ask_check.cache_clear()


@pytest.fixture(scope="module")
def data() -> ImageData:
    return make_image_data()


def records(config: TrialConfig, data: ImageData, engine: str, resume: Any = None) -> tuple[Any, Any]:
    for result in train(config, data, resume, engine=engine):
        checkpoint = result.take_checkpoint()
    return result.records, checkpoint


@pytest.mark.parametrize(
    "changes",
    [{}, {"momentum": 0.0}, {"weight_decay": 0.0}, {"precision": "bf16"}, {"nesterov": True, "label_smoothing": 0.1}],
)
def test_a_step_over_buffers_that_stay_is_bit_for_bit_the_loop(changes: dict[str, Any], data: ImageData) -> None:
    config = replace(CONFIG, **changes)
    (eager, _), (graph, _) = (records(config, data, engine) for engine in ("eager", "graph"))
    assert eager.layers.equals(graph.layers)
    assert eager.steps.equals(graph.steps)
    assert eager.epochs.column("test_loss").equals(graph.epochs.column("test_loss"))


def test_a_trial_goes_on_with_another_engine(data: ImageData) -> None:
    whole, end = records(CONFIG, data, "eager")
    for first, second in (("eager", "graph"), ("graph", "eager")):
        half = next(train(CONFIG, data, engine=first)).take_checkpoint()
        resumed, checkpoint = records(CONFIG, data, second, half)
        assert resumed.layers.equals(whole.layers)
        assert all(torch.equal(checkpoint.model[name], end.model[name]) for name in end.model)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiling_alone_changes_nothing(precision: Precision) -> None:
    check = check_engine(
        "compile", replace(CONFIG, precision=precision), "cpu", lambda *a: CompiledEngine(*a, backend="aot_eager")
    )
    assert check.found == 0.0
    assert check.allowed > 0.0


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.skipif("FULL_TESTS" not in os.environ, reason="compiles a whole network for a minute: make test-full")
def test_inductor_trains_as_eager_within_what_rounding_makes() -> None:
    check = check_engine("compile", CONFIG, "cpu")
    assert check.passed, check.sentence
    assert check.found is not None


def test_preparing_takes_no_time_of_an_epoch_and_changes_nothing(data: ImageData) -> None:
    told: list[float] = []
    first = next(train(CONFIG, data, engine="graph", on_prepared=told.append))
    plain = next(train(CONFIG, data, on_prepared=told.append))
    assert len(told) == 1, "eager on a CPU needs no warming up"
    assert told[0] > 0
    assert first.metrics["train_loss"] == plain.metrics["train_loss"]
    assert first.metrics["noise_scale"] == plain.metrics["noise_scale"]


class WrongNumbers(EagerEngine):
    """Forgets the weight decay."""

    def begin_epoch(self, learning_rate: float) -> None:
        super().begin_epoch(learning_rate)
        self._optimizer.param_groups[0]["momentum"] = 0.8


class FrozenRate(GraphEngine):
    """As a graph that was captured with the learning rate of its first step."""

    def begin_epoch(self, learning_rate: float) -> None:
        before = self._rate.clone() if hasattr(self, "_rate") else None
        super().begin_epoch(learning_rate)
        if before is not None and before != 0:
            self._rate.copy_(before)


class OldImages(GraphEngine):
    """As a graph whose input was not copied in."""

    def forward_backward(self, step: int, images: Tensor, labels: Tensor) -> None:
        super().forward_backward(step, self._images if hasattr(self, "_images") else images, labels)


class Raising(EagerEngine):
    def update(self) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize("wrong", [WrongNumbers, FrozenRate, OldImages])
def test_other_numbers_fail_the_check(wrong: type[EagerEngine]) -> None:
    check = check_engine("graph", CONFIG, "cpu", wrong)
    assert not check.passed
    assert check.found is not None
    assert check.found > check.allowed


def test_what_raises_fails_the_check() -> None:
    check = check_engine("graph", CONFIG, "cpu", Raising)
    assert check.problem == "RuntimeError: CUDA error: operation not permitted when stream is capturing"


def test_an_engine_that_fails_or_hangs_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert choose_engine(CONFIG, "cpu") == Chosen("eager")
    assert choose_engine(replace(CONFIG, engine="graph"), "cpu") == Chosen("eager", "graph: a CPU has no CUDA graphs")
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(engine_check, "TIME_LIMIT_S", 0.5)
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    chosen = choose_engine(replace(CONFIG, engine="auto"), "cpu")
    assert chosen == Chosen("eager", "graph: a CPU has no CUDA graphs; compile: no answer within 0.5 s")
    engine_check._ask_check.cache_clear()
    monkeypatch.setattr(engine_check, "TIME_LIMIT_S", 30.0)
    python.write_text("#!/bin/sh\necho 'Segmentation fault' >&2; exit 139\n")
    assert "compile: its check ended early (Segmentation fault)" in str(
        choose_engine(replace(CONFIG, engine="compile"), "cpu")
    )
    answer_with(python, found=0.5)
    assert choose_engine(replace(CONFIG, engine="auto"), "cuda") == Chosen(
        "eager", "compile: difference 0.5, allowed 0.01; compile: difference 0.5, allowed 0.01"
    ), "as said by this check for both"
    answer_with(python, found=0.001)
    assert choose_engine(replace(CONFIG, engine="auto"), "cpu").name == "compile"
    assert choose_engine(replace(CONFIG, engine="auto"), "cuda") == Chosen("graph")


def answer_with(python: Path, found: float) -> None:
    """Put a check that finds this in the place of the process."""
    answer = json.dumps({"name": "compile", "compared": "difference", "allowed": 0.01, "found": found})
    python.write_text(f"#!/bin/sh\necho '{answer}'\n")
    python.chmod(0o755)
    engine_check._ask_check.cache_clear()  # as in another process


def test_only_a_check_that_passed_is_remembered_by_other_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, python, memory = replace(CONFIG, engine="compile"), tmp_path / "python", tmp_path / "cache"
    monkeypatch.setattr(sys, "executable", str(python))
    answer_with(python, found=0.5)
    assert choose_engine(config, "cpu").name == "eager"
    assert not list(memory.rglob("*.json")), "one that failed is asked again"
    answer_with(python, found=0.001)
    assert choose_engine(config, "cpu").name == "compile"
    (kept,) = memory.rglob("*.json")
    answer_with(python, found=0.5)
    assert choose_engine(replace(config, learning_rate=0.2, seed=3, epochs=9), "cpu").name == "compile", "from memory"
    for other in ({"width": 3}, {"batch_size": 16}, {"precision": "bf16"}, {"momentum": 0.5}, {"weight_decay": 0.0}):
        assert choose_engine(replace(config, **other), "cpu").name == "eager", other
    monkeypatch.setattr(device_report, "code_fingerprint", lambda: "other code")
    engine_check._ask_check.cache_clear()
    assert choose_engine(config, "cpu").name == "eager"
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(memory))
    monkeypatch.setattr(sys, "executable", str(python))
    whole = json.loads(kept.read_bytes())
    for damaged in ("", "[]", "{}", json.dumps({**whole, "found": 0.5}), json.dumps({**whole, "found": "0"})):
        kept.write_text(damaged)
        engine_check._ask_check.cache_clear()
        assert choose_engine(config, "cpu").name == "eager", damaged


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_on_a_device_that_nobody_can_name_nothing_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    answer_with(tmp_path / "python", found=0.001)
    assert choose_engine(replace(CONFIG, engine="graph"), "cuda").name == "graph"
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_the_engine_is_recorded_with_the_trial(tmp_path: Path, data: ImageData) -> None:
    config = replace(CONFIG, epochs=1, engine="graph")
    state = run_trial(config, data, tmp_path, Placement())
    assert state.engine == "eager"
    assert state.notes == ("engine eager, not a faster one: graph: a CPU has no CUDA graphs",)
    assert state.preparation_time_s == 0.0


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_only_another_engine_makes_another_trial(engine: Engine) -> None:
    changed = replace(CONFIG, engine=engine)
    assert (trial_id(changed, "data") == trial_id(CONFIG, "data")) == (engine == "eager")


def test_the_names_are_those_of_the_configuration() -> None:
    assert {*engines.ENGINES, "auto"} == set(typing.get_args(Engine))
