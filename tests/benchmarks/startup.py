"""How long commands take to answer: `python -m tests.benchmarks.startup`. Runs them in turn; prints a markdown table."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time

from trainable.fingerprint import cpu_name

COMMANDS = {
    "bare Python": ["-c", "pass"],
    "`import trainable.config`": ["-c", "import trainable.config"],
    "`python -m study.run --help`": ["-m", "study.run", "--help"],
    "`python -m study.run --grid paper --plan`": ["-m", "study.run", "--grid", "paper", "--plan"],
    "`python -m trainable --help`": ["-m", "trainable", "--help"],
    "`python -m analysis --help`": ["-m", "analysis", "--help"],
    "for comparison: `import torch`": ["-c", "import torch"],
    "for comparison: `from ray import tune`": ["-c", "from ray import tune"],
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.startup", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=120)
            if turn:  # the first round brings the files into memory
                times[name].append(time.perf_counter() - started)
    print(f"{os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}, {rounds} rounds in turn; "
          f"load average {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| command | seconds, median | spread |\n| --- | ---: | ---: |")
    for name, seconds in times.items():
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} - {max(seconds):.2f} |")


if __name__ == "__main__":
    main()
