"""Fingerprints of what a result depends on besides its configuration and data: the code and the hardware."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any


def code_fingerprint() -> str:
    """SHA-256 over the names and contents of all Python files of this package, in order of their names."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


# Earlier code, the oldest first, that trains bit for bit what this code trains and measures the same in it: fingerprint -> commit. Each is held by
# tests/unit/study/test_compatibility.py, which trains again what that code has trained. One that this code trains differently
# from is taken out: its studies then go on with --accept-changes only.
TRAINS_THE_SAME = {
    "addc049ebac115ff506aee6c2b9a23a9c26bf825f38613b54e920723ead7dcf5": "2de36d5",
    "3d2844e7598c3757695507154be609140212234df540bdf12e938b56276e1995": "68e7e52",
    "93c910ec52f45b60346500d8ac653e10fef4f7223fa57abd90906de67947bdc6": "39d2193",
}


def training_fingerprint(fingerprint: Any) -> Any:
    """The fingerprint of the present code where that of other code is given that trains the same; else what is given."""
    return code_fingerprint() if isinstance(fingerprint, str) and fingerprint in TRAINS_THE_SAME else fingerprint


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module's shorter name will do
    return platform.processor() or platform.machine()
