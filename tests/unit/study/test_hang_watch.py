"""A silent trial is ended after its time-out, and a driver that was busy itself takes no trial for silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from study.driver import failures
from study.driver.failures import HangWatch


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(failures, "time", made)
    return made


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    workers: list[Any] = []
    monkeypatch.setattr("study.driver.failures.ray.kill", workers.append)
    return workers


def running(name: str) -> Any:
    return SimpleNamespace(
        config={"trial": {"trial_id": name}},
        status="RUNNING",
        temporary_state=SimpleNamespace(ray_actor=f"worker of {name}"),
    )


def step(watch: HangWatch, clock: Clock, trials: list[Any], seconds: float, pace_s: float = 0.5) -> None:
    """Tune's loop turning for so long."""
    for _ in range(round(seconds / pace_s)):
        clock.now += pace_s
        watch.on_step_begin(0, trials)


def test_the_silent_trial_alone_is_ended(clock: Clock, killed: list[Any]) -> None:
    watch, trials = HangWatch(10.0), [running("silent"), running("busy")]
    for trial in trials:
        watch.on_trial_start(0, trials, trial)
    step(watch, clock, trials, 8)
    watch.on_trial_result(0, trials, trials[1], {})
    step(watch, clock, trials, 4)
    assert killed == ["worker of silent"]
    assert "no report within 10 s" in (watch.reason("silent") or "")
    assert watch.reason("busy") is None


def test_while_the_driver_was_busy_no_trial_was_silent(clock: Clock, killed: list[Any]) -> None:
    watch, trials = HangWatch(10.0), [running("a")]
    watch.on_trial_start(0, trials, trials[0])
    step(watch, clock, trials, 4)
    clock.now += 500  # the records of thousands of trials are gathered
    step(watch, clock, trials, 5)
    assert killed == []
    step(watch, clock, trials, 2)
    assert killed == ["worker of a"]
