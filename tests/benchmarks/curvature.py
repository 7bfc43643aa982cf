"""What the curvature instruments cost, in steps of training: `python -m tests.benchmarks.curvature`.

A step, a gradient that can be differentiated again and a product with the Hessian take turns on the same batch; an instrument is so many
of them, on so many images. Times are CPU seconds (of a GPU: seconds), which busy neighbours change less than the clock's. Prints a
markdown table; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

import torch

from tests.benchmarks.instruments import STEPS_PER_EPOCH
from trainable.fingerprint import cpu_name
from trainable.instruments import batch_sharpness, hessian_trace, top_eigenvalue
from trainable.measuring.curvature import batch_loss
from trainable.measuring.evaluation import full_fp32
from trainable.model import build_model

ITERATIONS = 7  # of Lanczos: what it usually takes to reach its tolerance
# images, and products with the Hessian on them
WORK = {
    "batch sharpness": (batch_sharpness.NUM_IMAGES, 1),
    "largest eigenvalue": (top_eigenvalue.NUM_IMAGES, ITERATIONS),
    "Hessian trace": (hessian_trace.NUM_IMAGES, hessian_trace.NUM_PROBES),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    taken = measure(arguments.width, arguments.batch_size, arguments.rounds, torch.device(arguments.device))
    step_s, gradient, product = (
        median(taken["step"]),
        *(median(taken[name]) / median(taken["step"]) for name in ("gradient", "product")),
    )
    print(
        f"{cpu_name()}, {os.cpu_count()} cores; torch {torch.__version__}; width {arguments.width}, batch {arguments.batch_size}, 1 thread, "
        f"{arguments.rounds} rounds; load average {os.getloadavg()[0]:.1f}\n"
    )
    print(f"A step takes {1e3 * step_s:.0f} ms, a gradient that can be differentiated again {gradient:.2f} steps, a product with the Hessian {product:.2f}.\n")  # fmt: skip
    print("| instrument | images | products | steps of 64 images | of an epoch of 50,000 images | every 4 epochs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    total = 0.0
    for name, (images, products) in WORK.items():
        steps = images / 64 * (gradient + products * product)
        share = steps / STEPS_PER_EPOCH
        total += share
        print(f"| {name} | {images} | {products} | {steps:.0f} | {share:.1%} | {share / 4:.2%} |")
    print(f"| all three | | | | {total:.1%} | {total / 4:.2%} |")


def measure(width: int, batch_size: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of a step, of a gradient and of a product, round by round; the first round only warms up."""
    model = build_model(width, seed=0).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % 10
    taken: dict[str, list[float]] = {"step": [], "gradient": [], "product": []}
    for turn in range(rounds + 1):
        with full_fp32():
            times = [_now(device)]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(_now(device))
            with batch_loss(model, images, labels) as at:
                times.append(_now(device))
                at.times_hessian(at.gradient)
                times.append(_now(device))
        if turn:
            for name, start, end in zip(taken, times, times[1:], strict=False):
                taken[name].append(end - start)
    return taken


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()
