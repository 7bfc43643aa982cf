"""`python -m trainable.device.check`: does this device train as the CPU does? Prints a table; needs neither data nor Ray.

What is compared stands in trainable/device/comparisons.py. Status 0 passed, 1 failed, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from trainable.device.comparisons import CHECKS, Operations
from trainable.device.report import Check, DeviceReport
from trainable.errors import first_line
from trainable.fingerprint import code_fingerprint, cpu_name


def check_device(name: str, operations: Operations | None = None, only: Collection[str] | None = None) -> DeviceReport:
    """All checks of a torch device, or those named `only`, in the order in which they build on each other; never raises."""
    operations = operations or Operations()
    started = time.perf_counter()
    device = torch.device(name)
    checks: list[Check] = []
    with _one_thread():
        for check, measure in CHECKS:
            if only is None or check.name in only:
                checks.append(_run(check, lambda measure=measure: measure(device, operations)))  # type: ignore[misc]
            if checks and checks[0].name == CHECKS[0][0].name and not checks[0].passed:
                break  # nothing else can be asked
    return DeviceReport(_describe(device), _software(), tuple(checks), time.perf_counter() - started)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The steps are so small that threads of a busy machine wait for each other most of the time: 40 s instead of 7 were seen."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(check: Check, measure: Callable[[], float]) -> Check:
    try:
        return replace(check, found=float(measure()))
    except Exception as error:  # noqa: BLE001 - whatever a device, its driver or torch does is what is asked here
        return replace(check, problem=f"{type(error).__name__}: {first_line(error)[:300]}")


def _describe(device: torch.device) -> str:
    if device.type != "cuda":
        return cpu_name()
    try:
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    except (RuntimeError, AssertionError):
        return "no CUDA device"


def _software() -> str:
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    built = f"CUDA {torch.version.cuda}, cuDNN {cudnn}" if torch.version.cuda else "no CUDA"
    return (
        f"driver {_driver()}, torch {torch.__version__} ({built}), Python {platform.python_version()}, "
        f"{platform.platform()}, code {code_fingerprint()[:12]}"
    )


def _driver() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError as error:
        return f"unknown ({error})"


def build_parser(program: str = "python -m trainable.device.check") -> argparse.ArgumentParser:
    """The command line; `program` is what the usage calls this command."""
    parser = argparse.ArgumentParser(prog=program, description="Does this device train as the CPU does?")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    return parser


def main(arguments: list[str] | None = None, *, program: str = "python -m trainable.device.check") -> int:
    """Check a device and print the table."""
    options = build_parser(program).parse_args(arguments)
    try:
        torch.device(options.device)
    except RuntimeError as error:
        print(f"error: --device {options.device}: {first_line(error)}", file=sys.stderr)
        return 2
    report = check_device(options.device)
    print(json.dumps(report.to_dict()) if options.json else f"{report.table()}\n\n{report.line}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
