"""Fingerprints of what a result depends on besides its configuration and data: the code and the hardware."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path


def code_fingerprint() -> str:
    """SHA-256 over the names and contents of all Python files of this package, in order of their names."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module's shorter name will do
    return platform.processor() or platform.machine()
