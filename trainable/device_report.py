"""What a device check found, kept and asked for without torch: by whoever is about to train on a device.

The check itself (trainable/device_check.py) runs in a process of its own, so that a device that hangs, or leaves CUDA in a state
that nothing recovers from, costs no driver and no worker. A check that passed is remembered by device, driver, torch and code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trainable.data.cache import default_cache
from trainable.files import write_json
from trainable.fingerprint import code_fingerprint

TIME_LIMIT_S = 300.0  # a first use of CUDA loads gigabytes from a disk that may be slow
_VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


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
        return cls(**{**values, "checks": tuple(Check(**check) for check in values["checks"])})


def require_device(visible: str | None = None) -> DeviceReport:
    """The report of the first device that CUDA_VISIBLE_DEVICES shows, or of `visible`: from memory, else checked now.

    A report that says why stands for a check that did not end, or not in time.
    """
    environment = dict(os.environ) if visible is None else {**os.environ, _VISIBLE_DEVICES: visible}
    memory = _memory(environment.get(_VISIBLE_DEVICES))
    if memory is not None and (known := _read(memory)) is not None:
        return known
    report = _check_in_process(environment)
    if memory is not None and not report.failures:
        with contextlib.suppress(OSError):  # a home folder that cannot be written: it is checked again next time
            write_json(memory, report.to_dict())
    return report


def _check_in_process(environment: dict[str, str]) -> DeviceReport:
    command = [sys.executable, "-m", "trainable.device_check", "--json"]
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
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


def _memory(visible: str | None) -> Path | None:
    """Where the report of the device is kept; None where nobody can say which device and driver it is."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            first = (visible or "0").split(",")[0].strip()
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(int(first))
                if first.isdigit()
                else pynvml.nvmlDeviceGetHandleByUUID(first)
            )
            what = [pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    content = json.dumps([*what, metadata.version("torch"), code_fingerprint()])
    return default_cache() / "device-checks" / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"


def _read(path: Path) -> DeviceReport | None:
    try:
        return DeviceReport.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):
        return None
