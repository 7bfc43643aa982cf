"""What training costs on one device and where its time goes: `python -m tests.benchmarks.device --device cuda --data DIR`.

For each configuration of the published grid: seconds of an epoch, images/s, FLOP/s of the model (2 per multiply-accumulate, forward
and backward, the image's gradient not counted) and their share of --peak-tflops, host synchronisations of an epoch's training per
step, peak memory. Then the operations that take most of a step's time, by torch's profiler. Needs torch and pyarrow alone; asserts
nothing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from trainable.config import TrialConfig, parse_override
from trainable.data.augmentation import TrainingBatches
from trainable.data.data_set import ImageData, load_data, split_data
from trainable.fingerprint import cpu_name
from trainable.measuring.evaluation import autocast
from trainable.model import NUM_CLASSES, build_model
from trainable.models.resnet import ResNet18
from trainable.training.loop import train

PUBLISHED = ((64, 0.15), (128, 0.20))
_PROFILED_STEPS = 20
_LISTED = 12


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.device", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with CIFAR-10; default: cache, else download")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of TrialConfig")
    parser.add_argument("--epochs", type=int, default=4, help="of each configuration; the first warms up (default: 4)")
    parser.add_argument(
        "--peak-tflops", type=float, metavar="T", help="the device's peak in this precision, for its share"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    fields: dict[str, Any] = {
        "precision": "bf16" if device.type == "cuda" else "fp32", **dict(parse_override(text) for text in options.set)
    }  # fmt: skip
    configs = [
        TrialConfig.from_dict({"epochs": options.epochs, **fields, "batch_size": size, "learning_rate": rate})
        for size, rate in PUBLISHED
    ]
    data = load_data(configs[0].dataset, options.data)
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} x {cpu_name()}"
    )
    print(f"{hardware}; Python {platform.python_version()}, torch {torch.__version__}; width {configs[0].width}, "
          f"{configs[0].precision}, {options.epochs} epochs\n")  # fmt: skip
    print(
        "| batch | training of an epoch, s | evaluation, s | images/s | TFLOP/s | of the peak | synchronisations a step | peak memory, MB |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for config in configs:
        print(_measure(config, data, device, options.peak_tflops), flush=True)
    for config in configs:
        print(f"\nbatch {config.batch_size}, {_PROFILED_STEPS} steps:\n\n{_profile(config, data, device)}")


def _measure(config: TrialConfig, data: ImageData, device: torch.device, peak_tflops: float | None) -> str:
    with _counted_synchronisations(device) as messages:
        results = [result.metrics for result in train(config, data, device=str(device))]
    later = results[1:] or results
    rate = statistics.median(row["images_per_s"] for row in later)
    flops = rate * _count_training_flops(config.width)
    share = f"{flops / 1e12 / peak_tflops:.1%}" if peak_tflops else "-"
    in_loop = [text for text in messages if "_train_epoch" in text]
    waits = f"{len(in_loop) / results[-1]['step']:.3f}" if device.type == "cuda" else "-"
    return (
        f"| {config.batch_size} | {_spread(later, 'train_time_s')} | {_spread(later, 'eval_time_s')} | {rate:,.0f} | "
        f"{flops / 1e12:.2f} | {share} | {waits} | {max(row['peak_memory_bytes'] for row in later) / 1e6:,.0f} |"
    )


@contextmanager
def _counted_synchronisations(device: torch.device) -> Iterator[list[str]]:
    """The stack at every operation that makes the host wait for the device, by torch's own warnings of them."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            found.append("".join(traceback.format_stack()))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _count_training_flops(width: int) -> int:
    with torch.device("meta"):
        model = ResNet18(width, NUM_CLASSES)
        image = torch.zeros(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(image).sum().backward()
    return int(counter.get_total_flops()) // len(image)


def _profile(config: TrialConfig, data: ImageData, device: torch.device) -> str:
    """Where the time of plain steps goes: operations by their own time on the device."""
    batches = TrainingBatches(split_data(data, config).train, config, device)
    model = build_model(config.width, config.seed).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    steps = batches.epoch(1)

    def run(number: int) -> None:
        for _, (images, labels) in zip(range(number), steps, strict=False):
            optimizer.zero_grad(set_to_none=True)
            with autocast(config, device):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    run(3)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        started = time.perf_counter()
        run(_PROFILED_STEPS)
        if on_gpu:
            torch.cuda.synchronize(device)
        took_s = time.perf_counter() - started
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    wanted = "CUDA" if on_gpu else "CPU"  # on a GPU kernels, not also the operations that started them
    averages = [event for event in found.key_averages() if event.device_type.name == wanted]
    events = sorted(averages, key=lambda event: -getattr(event, own))[:_LISTED]
    lines = [f"| {event.key[:80]} | {getattr(event, own) / 1e6 / took_s:.1%} | {event.count} |" for event in events]
    return "\n".join(["| operation | share of the time | calls |", "| --- | ---: | ---: |", *lines])


def _spread(rows: list[Any], column: str) -> str:
    values = [row[column] for row in rows]
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    main()
