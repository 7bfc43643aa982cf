"""Does an engine train as eager does, on this machine and for this configuration? Asked before it is used.

20 steps with a learning rate that changes, by the engine and by eager. Training amplifies rounding, so the allowed difference is
measured too: what eager makes of initial weights that are changed by rounding. Runs in a process of its own, so that what hangs or
dies costs a check and nothing else: `python -m trainable.device.engine_check ENGINE DEVICE` with what it depends on as JSON on its input.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from trainable.config import TrialConfig
from trainable.device.report import Check, identify_gpu, memory_of, recall, remember
from trainable.errors import first_line
from trainable.fingerprint import cpu_name
from trainable.measuring.evaluation import fp32_of
from trainable.model import INPUT_SHAPE, NUM_CLASSES, build_network
from trainable.models import InputShape
from trainable.training.engines import ENGINES, EagerEngine
from trainable.training.optimization import build_optimizer
from trainable.user_code import Source, is_reference, provide, provided

NUM_STEPS = 20
TIME_LIMIT_S = 600.0  # compiling takes a minute or two where it has never been done
_ROUNDING = {"fp32": 1e-6, "published": 1e-4, "bf16": 1e-3}  # of a weight
_TIMES_ROUNDING, _MOST_ALLOWED = 3.0, 0.1
_LEARNING_RATE = 0.005  # of the first steps: at the published ones rounding alone makes another training of 20 steps
_STEPS_AN_EPOCH = 4
EngineMaker = Callable[..., EagerEngine]


@dataclass(frozen=True)
class Chosen:
    """The engine that a trial uses, and in words why, where another one was asked for or others were tried."""

    name: str
    reason: str | None = None


def choose_engine(
    config: TrialConfig, device: str, num_classes: int = NUM_CLASSES, input_shape: InputShape = INPUT_SHAPE
) -> Chosen:
    """The engine that the configuration asks for where it passes its check on this device, else eager with the reason.

    It is checked on drawn images of this shape in so many classes.

    `auto` is the first of graph, compile and eager that passes. A check that passed is remembered as a device check is, for all
    processes of this user; one that failed for the life of this one.
    """
    if config.engine == "eager":
        return Chosen("eager")
    on_cpu = torch.device(device).type == "cpu"
    asked = [name for name in ENGINES if config.engine in ("auto", name) and name != "eager"]
    refused = []
    for name in asked:
        if name == "graph" and (on_cpu or config.optimizer != "sgd"):
            refused.append("graph: a CPU has no CUDA graphs" if on_cpu else "graph: knows SGD alone")
            continue
        counts = {"config": _what_counts(config).to_dict(), "num_classes": num_classes, "input_shape": input_shape}
        code = [asdict(source) for source in provided()] if is_reference(config.model) else []
        check = _ask_check(name, device, json.dumps({**counts, "code": code}))
        if check.passed:
            return Chosen(name, "; ".join(refused) or None)
        refused.append(check.sentence)
    return Chosen("eager", "; ".join(refused))


def _what_counts(config: TrialConfig) -> TrialConfig:
    """Of a configuration what the check of an engine depends on, everything else at its default."""
    return TrialConfig(
        width=config.width, batch_size=config.batch_size, momentum=config.momentum, weight_decay=config.weight_decay,
        precision=config.precision, optimizer=config.optimizer, nesterov=config.nesterov, beta2=config.beta2,
        label_smoothing=config.label_smoothing, model=config.model, model_source=config.model_source,
        model_fields=config.model_fields,
    )  # fmt: skip


@cache
def _ask_check(name: str, device: str, config: str) -> Check:
    """The check of one engine: from memory, else in a process of its own."""
    place = torch.device(device)
    identity = identify_gpu(os.environ.get("CUDA_VISIBLE_DEVICES"), place.index or 0) if place.type == "cuda" else [
        cpu_name(), platform.platform()
    ]  # fmt: skip
    compilers = [
        shutil.which(os.environ.get(variable, name)) or "" for variable, name in (("CC", "gcc"), ("CXX", "g++"))
    ]
    memory = None if identity is None else memory_of("engine-checks", identity, name, config, *compilers)
    known = recall(memory, Check.from_dict)
    if known is not None and known.passed:
        return known
    check = _check_in_process(name, device, config)
    if check.passed:
        remember(memory, asdict(check))
    return check


def _check_in_process(name: str, device: str, config: str) -> Check:
    """The check in a process that may hang or die."""
    command = [sys.executable, "-m", "trainable.device.engine_check", name, device]
    check = Check(name, "difference of the weights' change")
    try:
        done = subprocess.run(
            command, input=config, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return Check.from_dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return replace(check, problem=f"no answer within {TIME_LIMIT_S:g} s")
    except (OSError, ValueError, LookupError, TypeError):
        said = done.stderr.strip().splitlines() if "done" in locals() else []
        return replace(check, problem=f"its check ended early ({said[-1][:200] if said else 'without a word'})")


def check_engine(
    name: str, config: TrialConfig, device: str, make: EngineMaker | None = None, num_classes: int = NUM_CLASSES,
    input_shape: InputShape = INPUT_SHAPE,
) -> Check:  # fmt: skip
    """Hold an engine against eager; never raises. `make` builds it, for tests of engines that are wrong."""
    check = Check(name, "difference of the weights' change")
    place = torch.device(device)
    try:
        with fp32_of(config):
            train = partial(_train, config=config, device=place, num_classes=num_classes, input_shape=input_shape)
            expected, expected_losses = train(EagerEngine)
            perturbed, _ = train(EagerEngine, rounding=_ROUNDING[config.precision])
            found, losses = train(make or ENGINES[name])
        allowed = min(_MOST_ALLOWED, _TIMES_ROUNDING * _difference(perturbed, expected))
        if not torch.allclose(losses[0], expected_losses[0], rtol=0.02):
            return replace(
                check, problem=f"first loss {float(losses[0]):.6g}, of eager {float(expected_losses[0]):.6g}"
            )
        return replace(check, allowed=allowed, found=_difference(found, expected))
    except Exception as error:  # noqa: BLE001 - whatever compiling or capturing raises is what is asked here
        return replace(check, problem=f"{type(error).__name__}: {first_line(error)[:300]}")


def _train(
    make: EngineMaker, config: TrialConfig, device: torch.device, num_classes: int, input_shape: InputShape,
    rounding: float = 0.0,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """What becomes of each weight in NUM_STEPS steps on drawn batches, and the loss of each step."""
    model = build_network(config, num_classes, input_shape).to(device).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    batches = list(_draw_batches(config, device, generator, num_classes, input_shape))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            noise = torch.randn(parameter.shape, generator=generator).to(device)
            parameter.mul_(1 + rounding * noise)
    initial = [parameter.detach().clone() for parameter in trained]
    engine = make(model, build_optimizer(model, config), config, device, _STEPS_AN_EPOCH)
    engine.prepare(*batches[0])
    losses = []
    for first in range(0, NUM_STEPS, _STEPS_AN_EPOCH):
        engine.begin_epoch(_LEARNING_RATE * (1 - first / NUM_STEPS))
        for step in range(_STEPS_AN_EPOCH):
            engine.forward_backward(step, *batches[(first + step) % len(batches)])
            engine.update()
        losses.append(engine.losses.clone())
    return [(p.detach() - i).double().cpu() for p, i in zip(trained, initial, strict=True)], torch.cat(losses).cpu()


def _draw_batches(
    config: TrialConfig, device: torch.device, generator: torch.Generator, num_classes: int, input_shape: InputShape
) -> Iterable[tuple[Tensor, Tensor]]:
    for _ in range(_STEPS_AN_EPOCH):
        labels = torch.randint(num_classes, (config.batch_size,), generator=generator)
        images = (
            torch.randn(config.batch_size, *input_shape, generator=generator) / 2 + labels[:, None, None, None] / 5 - 1
        )
        yield images.to(memory_format=torch.channels_last).to(device), labels.to(device)


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The norm of the difference of all weights' changes over that of the expected ones; inf where it is not finite."""
    square = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    ratio = (square / sum(float(b.square().sum()) for b in expected)) ** 0.5
    return ratio if ratio < float("inf") else float("inf")


def main(arguments: list[str] | None = None) -> int:
    """Check one engine and print the result as JSON."""
    name, device = sys.argv[1:] if arguments is None else arguments
    started = time.perf_counter()
    asked = json.load(sys.stdin)
    provide(Source(**source) for source in asked["code"])
    config, shape = TrialConfig.from_dict(asked["config"]), tuple(asked["input_shape"])
    check = check_engine(name, config, device, num_classes=asked["num_classes"], input_shape=shape)
    print(f"{name} on {device}: {time.perf_counter() - started:.1f} s", file=sys.stderr)
    print(json.dumps(check.__dict__))
    return 0 if check.passed else 1


if __name__ == "__main__":
    sys.exit(main())
