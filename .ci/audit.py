"""`make audit`: the pinned packages against the Python advisory database, with pip-audit.

Exit status: 1 where a package has a known vulnerability. Without a network nothing can be looked up: that is said, and the
exit status is 0, so that the rule can stand in a pipeline that has none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PIP_AUDIT = "pip-audit==2.10.0"
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Audit both lock files; the exit status."""
    uv = Path(sys.executable).with_name("uv")
    locks = [part for name in ("requirements.lock", "requirements-uv.lock") for part in ("-r", str(ROOT / name))]
    command = [uv, "tool", "run", "--quiet", PIP_AUDIT, "--disable-pip", "--require-hashes", "--format", "json",
               "--progress-spinner", "off", "--timeout", "15", *locks]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        reason = done.stderr.strip().splitlines()[-1:] if isinstance(error, ValueError) else [str(error)]
        print(f"audit: nothing was looked up: {' '.join(reason)[:300]}")
        return 0
    skipped = [package for package in packages if "skip_reason" in package]
    found = [(package, entry) for package in packages for entry in package.get("vulns", [])]
    for package, entry in found:
        fixed = ", ".join(entry["fix_versions"]) or "no version"
        print(f"{package['name']} {package['version']}: {entry['id']}, fixed in {fixed}")
    print(f"audit: {len(packages)} packages, {len(found)} known vulnerabilities, {len(skipped)} could not be looked up")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
