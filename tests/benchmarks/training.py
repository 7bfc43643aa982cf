"""Training images per second of the loop, a bare PyTorch loop and a plain script: `python -m tests.benchmarks.training`.

The bare loop does the same steps on the same augmented batches and records nothing. The plain script is written as the
published run describes itself: PIL transforms in a DataLoader, `loss.item()` at every step, no channels_last. All three
train one epoch in turn, for several rounds in one process, so that a shared machine's moods fall on all of them.
Prints a markdown table; asserts nothing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.benchmarks.augmentation import PilImages
from trainable.config import TrialConfig
from trainable.data.augmentation import TrainingBatches
from trainable.data.data_set import ImageData, load_data, split_data
from trainable.fingerprint import cpu_name
from trainable.model import build_model
from trainable.training.loop import train


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=2_560, help="training images of an epoch (default: 2560)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = TrialConfig(
        dataset="synthetic", width=options.width, batch_size=options.batch_size, train_limit=options.images,
        test_limit=10, epochs=options.rounds + 1, learning_rate=0.01, noise_scale_every_epochs=0,
    )  # fmt: skip
    data = load_data("synthetic")
    variants = {
        "train(), instruments as published": _own_loop(config, data),
        "bare PyTorch loop": _bare_loop(config, data),
        "plain script, PIL DataLoader": _plain_script(config, data),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(options.rounds + 1):
        for name, run_epoch in variants.items():
            seconds = run_epoch()
            if round_number:  # the first round warms up
                times[name].append(seconds)
    _print_table(options, times)


def _own_loop(config: TrialConfig, data: ImageData) -> Callable[[], float]:
    epochs = train(config, data)
    return lambda: float(next(epochs).metrics["train_time_s"])


def _bare_loop(config: TrialConfig, data: ImageData) -> Callable[[], float]:
    batches = TrainingBatches(split_data(data, config).train, config, torch.device("cpu"))
    model = build_model(config.width, config.seed).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    finished = 0

    def run_epoch() -> float:
        nonlocal finished
        finished += 1
        started = time.perf_counter()
        for images, labels in batches.epoch(finished):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - started

    return run_epoch


def _plain_script(config: TrialConfig, data: ImageData) -> Callable[[], float]:
    loader = DataLoader(
        PilImages(split_data(data, config).train), batch_size=config.batch_size, shuffle=True, drop_last=True,
        num_workers=2, persistent_workers=True,
    )  # fmt: skip
    model = build_model(config.width, config.seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def run_epoch() -> float:
        started = time.perf_counter()
        total, correct = 0.0, 0
        for images, labels in loader:
            optimizer.zero_grad()
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
            correct += int((logits.argmax(dim=1) == labels).sum().item())
        return time.perf_counter() - started

    return run_epoch


def _print_table(options: argparse.Namespace, times: dict[str, list[float]]) -> None:
    print(
        f"\nwidth {options.width}, batch {options.batch_size}, {options.images} images an epoch, {options.rounds} rounds in "
        f"turn, {options.threads} threads, {cpu_name()}, Python {platform.python_version()}, torch {torch.__version__}\n"
    )
    reference = times["bare PyTorch loop"]
    print(
        "| variant | images/s, median | spread | time over the bare loop, median of rounds |\n| --- | ---: | ---: | ---: |"
    )
    for name, seconds in times.items():
        rates = sorted(options.images / s for s in seconds)
        ratio = statistics.median(s / r for s, r in zip(seconds, reference, strict=True))
        print(f"| {name} | {statistics.median(rates):,.0f} | {rates[0]:,.0f} - {rates[-1]:,.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
