"""Augmented images per second, beside a torchvision DataLoader with PIL transforms: `python -m tests.benchmarks.augmentation`.

Both go through the same images in turn, several rounds in one process, so that a shared machine's moods fall on both. The
loader's workers stay alive and are warmed up first. Prints a markdown table; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainable.config import TrialConfig
from trainable.data.augmentation import TrainingBatches
from trainable.data.data_set import Split, load_data
from trainable.data.image_data import PUBLISHED
from trainable.fingerprint import cpu_name

GOAL = 8  # times the loader's images per second
Batches = Iterable[tuple[Tensor, Tensor]]


class PilImages(Dataset[tuple[Tensor, int]]):
    """What torchvision's CIFAR10 does for one image, with the published transforms."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
                transforms.ToTensor(),
                transforms.Normalize(PUBLISHED.mean, PUBLISHED.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._split.images[index])), int(self._split.labels[index])


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    device = torch.device(arguments.device)
    data = load_data("synthetic" if arguments.data is None else "cifar10", arguments.data)
    split = Split(data.train_images[: arguments.images], data.train_labels[: arguments.images])
    loader: DataLoader[Any] = DataLoader(
        PilImages(split), arguments.batch_size, shuffle=True, drop_last=True, num_workers=arguments.workers,
        persistent_workers=True, pin_memory=device.type == "cuda",
    )  # fmt: skip
    batches = TrainingBatches(split, TrialConfig(batch_size=arguments.batch_size), device)
    variants: dict[str, Callable[[int], Batches]] = {
        f"torchvision DataLoader, PIL, {arguments.workers} workers": lambda epoch: _moved(loader, device),
        **{f"this project, {device.type}, threads: {n}": partial(_with_threads, batches, n) for n in arguments.threads},
    }
    _print_table(arguments, device, _measure(variants, arguments.rounds, device))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=10_000, help="images of an epoch")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each variant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[os.cpu_count() or 1, 1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10; default: synthetic images")
    return parser.parse_args()


def _with_threads(batches: TrainingBatches, num_threads: int, epoch: int) -> Batches:
    """On a busy machine one thread can be faster than several, which wait for each other at every operation."""
    torch.set_num_threads(num_threads)
    return batches.epoch(epoch)


def _moved(loader: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _measure(
    variants: dict[str, Callable[[int], Batches]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Images per second of every round; a first round only warms up."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, epoch in variants.items():
            started = time.perf_counter()
            num_images = sum(len(labels) for _, labels in epoch(turn + 1))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                rates[name].append(num_images / (time.perf_counter() - started))
    return rates


def _print_table(arguments: argparse.Namespace, device: torch.device, rates: dict[str, list[float]]) -> None:
    hardware = torch.cuda.get_device_name(device) + ", " if device.type == "cuda" else ""
    print(
        f"{hardware}{cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}\n"
        f"{arguments.images:,} images, batch {arguments.batch_size}, {arguments.rounds} rounds in turn; "
        f"load average {os.getloadavg()[0]:.1f}\n"
    )
    print("| variant | images/s, median (quartiles) | ratio |")
    print("| --- | --- | --- |")
    baseline, *own = (statistics.median(values) for values in rates.values())
    for name, values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        print(f"| {name} | {middle:,.0f} ({low:,.0f} - {high:,.0f}) | {middle / baseline:.1f} |")
    print(f"\nGoal: at least {GOAL} times the loader: {'met' if own[0] >= GOAL * baseline else 'missed'}.")


if __name__ == "__main__":
    main()
