"""What the instruments cost, beside other ways to measure the same: `python -m tests.benchmarks.instruments`.

All variants take turns in one process, one training step each, so that a shared machine's moods fall on all of them. The
time of a variant's own calls is set against the median step without any. Where wandb is not installed its variant is left out.
Prints a markdown table; asserts nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from trainable.fingerprint import cpu_name
from trainable.instruments.noise_scale import MICROBATCH_SIZE, NUM_MICROBATCHES, measure_noise_scale
from trainable.measuring.evaluation import full_fp32
from trainable.measuring.probe import LayerProbe
from trainable.model import build_model

if TYPE_CHECKING:
    import wandb

STEPS_PER_EPOCH = 781
PUBLISHED_EVERY = 100
TARGETS = {1: 0.10, PUBLISHED_EVERY: 0.01}  # at most this share of the step's time when measured every so many steps


class Probe(Protocol):
    """What is called around the optimizer's step."""

    def before_step(self) -> None: ...
    def after_step(self) -> None: ...


class NoProbe:
    """The bare loop."""

    def before_step(self) -> None: ...
    def after_step(self) -> None: ...


class ForeachProbe:
    """The same quantities with torch's foreach reductions over the list of tensors, kept on the device."""

    def __init__(self, model: nn.Module, initial: list[Tensor]) -> None:
        self._parameters = list(model.parameters())
        self._initial = initial
        self._before = [torch.empty_like(tensor) for tensor in initial]
        self.results: list[Sequence[Tensor]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self.results = self._sizes(gradients, smallest=True)
        torch._foreach_copy_(self._before, [p.detach() for p in self._parameters])

    @torch.no_grad()
    def after_step(self) -> None:
        weights = [p.detach() for p in self._parameters]
        update = torch._foreach_sub(weights, self._before)
        self.results += [torch._foreach_norm(self._before), torch._foreach_norm(update)]
        self.results += [[x.sum() for x in torch._foreach_mul(update, weights)], *self._sizes(weights)]
        moved = torch._foreach_sub(weights, self._initial)
        self.results += [torch._foreach_norm(moved, order) for order in (1, torch.inf, 2)]

    @staticmethod
    def _sizes(tensors: list[Tensor], smallest: bool = False) -> list[Sequence[Tensor]]:
        """Sum, largest (and smallest) magnitude, L2, and deviation."""
        orders = [1, torch.inf, 2, *([-torch.inf] if smallest else [])]
        norms = [torch._foreach_norm(tensors, order) for order in orders]
        centered = torch._foreach_abs(tensors) if smallest else [tensor.clone() for tensor in tensors]
        torch._foreach_sub_(centered, [tensor.mean() for tensor in centered])
        return [*norms, torch._foreach_norm(centered)]


class ItemProbe:
    """The same quantities one tensor at a time, each fetched with .item(), as hand-written scripts do."""

    def __init__(self, model: nn.Module, initial: list[Tensor]) -> None:
        self._parameters = list(model.parameters())
        self._initial = initial
        self._before: list[Tensor] = []
        self.results: list[float] = []

    @torch.no_grad()
    def before_step(self) -> None:
        self.results = []
        for parameter in self._parameters:
            assert parameter.grad is not None
            magnitude = parameter.grad.abs()
            values = (magnitude.mean(), magnitude.max(), magnitude.min(), magnitude.std(), parameter.grad.norm())
            self.results += [value.item() for value in values]
        self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def after_step(self) -> None:
        for parameter, before, initial in zip(self._parameters, self._before, self._initial, strict=True):
            magnitude, moved = parameter.abs(), (parameter - initial).abs()
            values = [magnitude.mean(), magnitude.max(), parameter.std(), parameter.norm()]
            values += [moved.mean(), moved.max(), moved.norm(), (parameter - before).norm(), before.norm()]
            values += [nn.functional.cosine_similarity(parameter.flatten(), before.flatten(), dim=0)]
            self.results += [value.item() for value in values]


class WandbWatch:
    """What the hooks of wandb.watch(log="all", log_freq=1) do, in an offline run: a histogram of every tensor."""

    def __init__(self, model: nn.Module, run: wandb.Run) -> None:
        from wandb.integration.torch.wandb_torch import TorchHistory

        self._parameters = dict(model.named_parameters())
        self._history = TorchHistory()  # type: ignore[no-untyped-call]
        self._run = run

    def before_step(self) -> None:
        for name, parameter in self._parameters.items():
            self._history.log_tensor_stats(parameter.grad, f"gradients/{name}")  # type: ignore[no-untyped-call]

    def after_step(self) -> None:
        for name, parameter in self._parameters.items():
            self._history.log_tensor_stats(parameter.data.cpu(), f"parameters/{name}")  # type: ignore[no-untyped-call]
        self._run.log({"step": 0})


def main() -> None:
    """Measure and print."""
    arguments = _parse_arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    model = build_model(arguments.width, seed=0).to(device).to(memory_format=torch.channels_last)
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    probe = LayerProbe(model, initial, arguments.rounds + 1)
    step = _build_step(model, arguments.batch_size, device)
    variants: dict[str, Probe] = {
        "no instruments": NoProbe(),
        "this project's probe": probe,
        "torch foreach reductions": ForeachProbe(model, initial),
        "per tensor, .item()": ItemProbe(model, initial),
    }
    with _wandb_run() as run:
        if run is not None:
            variants["wandb.watch histograms"] = WandbWatch(model, run)
        with full_fp32():  # as training does
            bare, own = _measure(step, variants, arguments.rounds, device)
    _print_header(arguments, device)
    _print_costs(bare, own)
    _print_rest(
        model, probe, arguments, device, statistics.median(bare["no instruments"]), sum(t.nbytes for t in initial)
    )


@contextmanager
def _wandb_run() -> Iterator[wandb.Run | None]:
    """An offline run; None where wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        yield None
        return
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(silent=True, x_disable_stats=True))
        yield run
        run.finish()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each variant")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def _build_step(model: nn.Module, batch_size: int, device: torch.device) -> Callable[[Probe], tuple[float, float]]:
    """A function that takes one step with a probe and returns the seconds of the step, and of the probe's calls."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,), device=device)

    def step(probe: Probe) -> tuple[float, float]:
        started = _now(device)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        differentiated = _now(device)
        probe.before_step()
        measured = _now(device)
        optimizer.step()
        stepped = _now(device)
        probe.after_step()
        ended = _now(device)
        return differentiated - started + stepped - measured, measured - differentiated + ended - stepped

    return step


def _measure(
    step: Callable[[Probe], tuple[float, float]], variants: dict[str, Probe], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of the steps and of the calls of every variant; the first round only warms up."""
    bare: dict[str, list[float]] = {name: [] for name in variants}
    own: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            step_s, own_s = step(variants[name])
            if turn:
                bare[name].append(step_s)
                own[name].append(own_s)
    return bare, own


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _print_header(arguments: argparse.Namespace, device: torch.device) -> None:
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_name()}, {os.cpu_count()} cores"
    print(f"{hardware}; Python {platform.python_version()}, torch {torch.__version__}{_wandb_version()}")
    print(
        f"width {arguments.width}, batch {arguments.batch_size}, {arguments.threads} threads, {arguments.rounds} rounds; "
        f"load average {os.getloadavg()[0]:.1f}\n"
    )


def _wandb_version() -> str:
    return f", wandb {metadata.version('wandb')}" if importlib.util.find_spec("wandb") else ""


def _print_costs(bare: dict[str, list[float]], own: dict[str, list[float]]) -> None:
    step_s = statistics.median(bare["no instruments"])
    print("| variant | its calls, ms (quartiles) | rest of the step, ms (quartiles) | every step | every 100 steps |")
    print("| --- | --- | --- | --- | --- |")
    for name, seconds in own.items():
        cost = statistics.median(seconds) / step_s
        print(f"| {name} | {_spread(seconds)} | {_spread(bare[name])} | {cost:.2%} | {cost / PUBLISHED_EVERY:.3%} |")
    cost = statistics.median(own["this project's probe"]) / step_s
    for every, allowed in TARGETS.items():
        verdict = "met" if cost / every <= allowed else "missed"
        print(f"\nGoal, measured every {every} step(s): at most {allowed:.0%} of the step's time: {verdict}.")


def _print_rest(
    model: nn.Module,
    probe: LayerProbe,
    arguments: argparse.Namespace,
    device: torch.device,
    step_s: float,
    weights: int,
) -> None:
    """What happens once per epoch, and memory."""
    probe.drain("0123456789abcdef", 1, range(arguments.rounds + 1))  # the first loads parts of pyarrow
    for _ in range(arguments.rounds):
        probe.before_step()
        probe.after_step()
    started = _now(device)
    probe.drain("0123456789abcdef", 2, range(arguments.rounds))
    drain_s = (time.perf_counter() - started) / arguments.rounds
    num_images = MICROBATCH_SIZE * NUM_MICROBATCHES
    images, labels = torch.randn(num_images, 3, 32, 32, device=device), torch.arange(num_images, device=device) % 10
    started = _now(device)
    measure_noise_scale(model, images.to(memory_format=torch.channels_last), labels)
    noise_s = _now(device) - started
    print(f"\nTo the host, once per epoch: {1e3 * drain_s:.2f} ms per measured step.")
    print(
        f"Noise scale of {num_images} images, once per epoch: {noise_s:.2f} s, "
        f"{noise_s / (STEPS_PER_EPOCH * step_s):.2%} of an epoch of {STEPS_PER_EPOCH} steps."
    )
    print(
        f"Memory: {probe.buffer_bytes / 1e6:.1f} MB of buffers, of which {weights / 1e6:.1f} MB are the initial weights."
    )


def _spread(seconds: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{1e3 * middle:.1f} ({1e3 * low:.1f} - {1e3 * high:.1f})"


if __name__ == "__main__":
    main()
