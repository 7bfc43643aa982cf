"""What checkpoints cost a trial: `python -m tests.benchmarks.checkpoints`.

Two parts: the copy of the state, for which the training waits once per epoch, and the file (serialised, hashed, synced), which
a thread writes beside the training every 30 s; its CPU time is what it takes away from a trial with one core.
Prints a markdown table; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from trainable.config import TrialConfig
from trainable.data.data_set import load_data
from trainable.fingerprint import cpu_name
from trainable.records.checkpoint import list_checkpoints, write_checkpoint
from trainable.training.loop import train

INTERVAL_S = 30.0  # the default of --checkpoint-interval


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.checkpoints", description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}, torch {torch.__version__}, one thread, "
          f"{options.rounds} rounds; load average {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    print("| width | file | copy, once per epoch | file, wall | file, CPU | CPU of a file every 30 s |\n"
          "| ---: | ---: | ---: | ---: | ---: | ---: |")  # fmt: skip
    for width in options.widths:
        print(_row(width, options.rounds))


def _row(width: int, rounds: int) -> str:
    config = TrialConfig(dataset="synthetic", width=width, train_limit=64, test_limit=10, epochs=1)
    result = next(train(config, load_data("synthetic")))
    copies_s, walls_s, cpus_s = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            started = time.perf_counter()
            checkpoint = result.take_checkpoint()
            copied = time.perf_counter()
            cpu = time.process_time()
            write_checkpoint(Path(folder), checkpoint)
            walls_s.append(time.perf_counter() - copied)
            cpus_s.append(time.process_time() - cpu)
            copies_s.append(copied - started)
        size = list_checkpoints(Path(folder))[0].stat().st_size
    copy_s, wall_s, cpu_s = (statistics.median(values) for values in (copies_s, walls_s, cpus_s))
    return (
        f"| {width} | {size / 1e6:.1f} MB | {copy_s * 1e3:.1f} ms | {wall_s * 1e3:.0f} ms | {cpu_s * 1e3:.0f} ms "
        f"| {cpu_s / INTERVAL_S:.2%} |"
    )


if __name__ == "__main__":
    main()
