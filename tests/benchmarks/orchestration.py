"""What a trial costs besides its training: `python -m tests.benchmarks.orchestration`.

Runs `study.run` with trivial trials (one batch, one epoch, width 1), few and many of them in turn, and divides the
difference of the whole wall times by the difference of their numbers; starting up cancels out. For comparison the same
number of empty trials on plain Tune, a new process each. Prints a markdown table; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from trainable.fingerprint import cpu_name

_PLAIN = """
import sys
from ray import tune
def trial(config):
    import torch
    tune.report({"loss": float(torch.zeros(1))})
tune.Tuner(trial, param_space={"x": tune.grid_search(list(range(int(sys.argv[1]))))},
           run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0)).fit()
"""
_GRID = """
name = "trivial"
[base]
dataset = "synthetic"
width = 1
epochs = 1
batch_size = 64
train_limit = 64
test_limit = 10
noise_scale_every_epochs = 0
[grid]
learning_rate = [0.1]
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.orchestration", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--few", type=int, default=2)
    parser.add_argument("--many", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--plain", type=int, default=8, help="trials of the plain Tune run (default: 8; 0: leave it out)"
    )
    options = parser.parse_args()
    per_trial, few_s, plain = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "trivial.toml"
        grid.write_text(_GRID)
        for round_number in range(options.rounds):
            times = {}
            for count in (options.few, options.many):
                results = Path(folder) / f"results-{round_number}-{count}"
                times[count] = _time(
                    ["-m", "study.run", "--grid", str(grid), "--seeds", str(count), "--results", str(results)]
                )
            few_s.append(times[options.few])
            per_trial.append((times[options.many] - times[options.few]) / (options.many - options.few))
            if options.plain:
                start_s = _time(["-c", _PLAIN, "1", f"{folder}/plain-{round_number}-1"])
                whole_s = _time(["-c", _PLAIN, str(options.plain), f"{folder}/plain-{round_number}"])
                plain.append((whole_s - start_s) / (options.plain - 1))
    print(
        f"\n{options.rounds} rounds in turn, {len(os.sched_getaffinity(0))} x {cpu_name()}, Python {platform.python_version()}, "
        f"ray {metadata.version('ray')}, torch {metadata.version('torch')}\n"
    )
    print("| what | median, s | all rounds |\n| --- | ---: | --- |")
    _print_row(f"study of {options.few} trivial trials, whole command", few_s)
    _print_row(f"each trial more, up to {options.many}", per_trial)
    if plain:
        _print_row(f"plain Tune, each of {options.plain} empty trials that import torch", plain)


def _time(arguments: list[str]) -> float:
    started = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[:3]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - started


def _print_row(name: str, seconds: list[float]) -> None:
    print(f"| {name} | {statistics.median(seconds):.2f} | {', '.join(f'{s:.2f}' for s in seconds)} |")


if __name__ == "__main__":
    main()
