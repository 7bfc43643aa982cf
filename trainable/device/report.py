"""What a device check found, kept and asked for without torch: by whoever is about to train on a device.

The check itself (trainable/device/check.py) runs in a process of its own, so that a device that hangs, or leaves CUDA in a state
that nothing recovers from, costs no driver and no worker. A check that passed is remembered by device, driver, torch and code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from trainable.data.cache import default_cache
from trainable.files import write_json
from trainable.fingerprint import code_fingerprint

TIME_LIMIT_S = 300.0  # a first use of CUDA loads gigabytes from a disk that may be slow
_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Check:
    """One thing that was compared: what came out, what is allowed, and what went wrong where it did not come that far."""

    name: str
    compared: str  # in words, what the number is
    allowed: float = 0.0
    found: float | None = None  # None: it ended with `problem`, or does not apply
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """True where what was found is allowed."""
        return self.problem is None and (self.found is None or self.found <= self.allowed)

    @classmethod
    def from_dict(cls, values: Any) -> Check:
        """What `asdict` made. Errors: TypeError for anything else."""
        check = cls(**values)
        if not isinstance(check.passed, bool):  # raises where numbers are none
            raise TypeError("not a check")
        return check

    @property
    def sentence(self) -> str:
        """What is wrong, and by how much."""
        if self.problem is not None:
            return f"{self.name}: {self.problem}"
        return f"{self.name}: {self.compared} {self.found:.3g}, allowed {self.allowed:.3g}"


@dataclass(frozen=True)
class DeviceReport:
    """All checks of one device, and what it is."""

    device: str
    software: str
    checks: tuple[Check, ...]
    took_s: float

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def line(self) -> str:
        """The outcome in one line."""
        if not self.failures:
            return f"device check passed: {self.device} ({len(self.checks)} checks, {self.took_s:.0f} s)"
        return f"device check FAILED: {self.device}: " + "; ".join(check.sentence for check in self.failures)

    def table(self) -> str:
        """To read, and to paste into an issue."""
        rows = [f"{self.device}; {self.software}; {self.took_s:.1f} s", "", "| check | what | found | allowed | |",
                "| --- | --- | ---: | ---: | --- |"]  # fmt: skip
        for check in self.checks:
            found = "-" if check.found is None else f"{check.found:.3g}"
            verdict = "ok" if check.passed else f"FAILED{f': {check.problem}' if check.problem else ''}"
            rows.append(f"| {check.name} | {check.compared} | {found} | {check.allowed:.3g} | {verdict} |")
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DeviceReport:
        """What `to_dict` made. Errors: KeyError or TypeError for anything else."""
        return cls(**{**values, "checks": tuple(map(Check.from_dict, values["checks"]))})


def require_device(visible: str | None = None) -> DeviceReport:
    """The report of the first device that CUDA_VISIBLE_DEVICES shows, or of `visible`: from memory, else checked now.

    A report that says why stands for a check that did not end, or not in time.
    """
    environment = dict(os.environ) if visible is None else {**os.environ, _VISIBLE_DEVICES: visible}
    memory = _memory(environment.get(_VISIBLE_DEVICES))
    known = recall(memory, DeviceReport.from_dict)
    if known is not None and not known.failures:
        return known
    report = _check_in_process(environment)
    if not report.failures:
        remember(memory, report.to_dict())
    return report


def _check_in_process(environment: dict[str, str]) -> DeviceReport:
    command = [sys.executable, "-m", "trainable.device.check", "--json"]
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT_S, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        return DeviceReport.from_dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        problem = f"no answer within {TIME_LIMIT_S:g} s"
    except (OSError, ValueError, LookupError, TypeError):
        said = done.stderr.strip().splitlines() if "done" in locals() else []
        problem = f"the check ended early ({said[-1][:200] if said else 'without a word'})"
    return DeviceReport("CUDA device", "", (Check("comes up", "problems", problem=problem),), 0.0)


def identify_gpu(visible: str | None, index: int = 0) -> list[str] | None:
    """Name and driver of a device that CUDA_VISIBLE_DEVICES shows; None where nobody can say which one that is."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            shown = str(index) if visible is None else visible.split(",")[index].strip()
            if not shown.isdigit():
                handle = pynvml.nvmlDeviceGetHandleByUUID(shown)
            elif len({_name(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount())}) == 1:
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(shown))
            else:
                return None  # CUDA counts from the fastest one on, NVML does not
            return [pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()]
        finally:
            pynvml.nvmlShutdown()
    except (pynvml.NVMLError, IndexError):
        return None


def _name(nvml: Any, index: int) -> str:
    return str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(index)))


def memory_of(folder: str, device: list[str], *asked: str) -> Path:
    """Where the outcome of a check is kept: by device and driver, torch, the code, and what was asked."""
    content = json.dumps([*device, metadata.version("torch"), code_fingerprint(), *asked])
    return default_cache() / folder / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"


def remember(memory: Path | None, outcome: Mapping[str, Any]) -> None:
    """Keep the outcome of a check that passed; where that cannot be, it is checked again next time."""
    if memory is not None:
        with contextlib.suppress(OSError):
            write_json(memory, outcome)


def recall(memory: Path | None, parse: Callable[[Any], Outcome]) -> Outcome | None:
    """What was kept; None where there is nothing, or nothing whole."""
    try:
        return None if memory is None else parse(json.loads(memory.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _memory(visible: str | None) -> Path | None:
    device = identify_gpu(visible)
    return None if device is None else memory_of("device-checks", device)
