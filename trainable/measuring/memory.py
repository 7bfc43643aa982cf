"""The peak memory of a trial, for its records. Knows nothing of training."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")  # Linux


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak; without it a process that trains many trials would report the largest of them for all later ones.

    On the CPU it is the process's resident memory, whose peak Linux can forget; elsewhere it stays that of its whole life.
    """
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # before it the allocator knows no device
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")  # see proc_pid_clear_refs(5)


class StepMemory:
    """The peak of CUDA memory in the steps of an epoch, without what is done ahead of them; on the CPU that of the process."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._seen = device, 0

    def begin(self) -> None:
        """Forget what was before; the last evaluation, in larger batches, took more than training does."""
        self._seen = 0
        if self._device.type == "cuda":
            reset_peak_memory(self._device)

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Within it nothing counts: the augmentation of thousands of images takes more than a step of any batch size."""
        if self._device.type != "cuda":
            yield
            return
        self._seen = self.peak_bytes()
        yield
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """Since `begin`."""
        return max(self._seen, peak_memory_bytes(self._device))


def peak_memory_bytes(device: torch.device) -> int:
    """Since the reset, the most memory that was allocated on a CUDA device; on the CPU resident memory of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
