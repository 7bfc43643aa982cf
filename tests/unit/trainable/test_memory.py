"""Peak memory where the operating system gives less than Linux does; the usual way is tested with the training loop."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from trainable.measuring import memory
from trainable.measuring.memory import StepMemory


def test_without_proc_it_is_the_peak_of_the_whole_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "missing")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory.reset_peak_memory(torch.device("cpu"))
    found = memory.peak_memory_bytes(torch.device("cpu"))
    assert 1024 * before <= found <= 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_what_is_done_ahead_of_the_steps_is_left_out_of_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's allocator, imitated: its peak is that since the reset."""
    peak = 0

    def reset(device: object) -> None:
        nonlocal peak
        peak = 0

    def allocate(size: int) -> None:
        nonlocal peak
        peak = max(peak, size)

    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
    steps = StepMemory(torch.device("cuda"))
    allocate(900)
    steps.begin()
    for augmented, step in ((637, 326), (637, 300)):
        with steps.left_out():
            allocate(augmented)
        allocate(step)
    assert steps.peak_bytes() == 326
    steps.begin()
    assert steps.peak_bytes() == 0
