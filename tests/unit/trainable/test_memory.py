"""Peak memory where the operating system gives less than Linux does; the usual way is tested with the training loop."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from trainable import memory


def test_without_proc_it_is_the_peak_of_the_whole_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "missing")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory.reset_peak_memory(torch.device("cpu"))
    found = memory.peak_memory_bytes(torch.device("cpu"))
    assert 1024 * before <= found <= 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
