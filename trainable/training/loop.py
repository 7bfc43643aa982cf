"""Training of one configuration, as a generator that yields what was measured after every epoch.

`train` is the seam of the project: Ray Tune, the command line and the tests all consume it. What an epoch does follows
from the configuration, the data and the epoch's number alone, so a resumed trial repeats an uninterrupted one bit for
bit on the CPU. Loss and correct counts stay on the device during an epoch; the host reads them once, at its end.
Knows no Ray, no files and no terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from trainable.config import TrialConfig, trial_id
from trainable.data.augmentation import EvaluationBatches, TrainingBatches
from trainable.data.data_set import ImageData, Split, split_data
from trainable.errors import first_line
from trainable.instrument import Array, EpochEnd, is_due, measured_steps
from trainable.measuring.evaluation import evaluate, fp32_of
from trainable.measuring.memory import StepMemory, reset_peak_memory
from trainable.measuring.probe import LayerMeasurements, LayerProbe
from trainable.model import build_network, stable_seed
from trainable.records.checkpoint import Checkpoint
from trainable.records.columns import EPOCH_INSTRUMENTS
from trainable.records.tables import TrialRecords, build_table
from trainable.training.engines import ENGINES, EagerEngine
from trainable.training.optimization import build_optimizer
from trainable.training.schedule import scheduled_learning_rate

_EVALUATION_BATCH = {"cpu": 250, "cuda": 2_000}


class TrainingDiverged(Exception):
    """The loss is not finite any more. The records of the epoch were yielded before."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"loss not finite in epoch {epoch}, first at step {step}")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch: its row of the epoch records, its step records, and all records of the trial so far."""

    trial_id: str
    epoch: int
    metrics: Mapping[str, Any]
    steps: pa.Table
    records: TrialRecords
    instrument_s: Mapping[str, float]  # host time of each instrument that measured the epoch at its end
    take_checkpoint: Callable[[], Checkpoint]  # a copy of the state now; call before the next epoch is asked for


@dataclass(frozen=True)
class _EpochTotals:
    """What the steps of one epoch left behind, on the host: per step its loss and correct count (num_batches,)."""

    losses: np.ndarray
    correct: np.ndarray
    measured_steps: list[int]
    measurements: LayerMeasurements
    instrument_time_s: float


def train(
    config: TrialConfig,
    data: ImageData,
    resume: Checkpoint | None = None,
    *,
    device: str = "cpu",
    engine: str = "eager",
    stop: threading.Event | None = None,
    on_prepared: Callable[[float], None] = lambda seconds: None,
) -> Iterator[EpochResult]:
    """Train one configuration and yield an EpochResult after each epoch, from the one after `resume` on.

    A branch begins from its parent's state, which `trainable.training.branching` makes the `resume` of it.
    `device` is a torch device, `engine` what runs the steps (trainable/training/engines.py). Before the first epoch the device is warmed up
    and the engine compiles or captures; `on_prepared` is told how long that took, which is part of no epoch. When `stop` is set the generator ends within one step, without the epoch in progress.
    Errors: TrainingDiverged after the epoch whose loss is not finite; ValueError where data, configuration and
    checkpoint do not fit together.
    """
    target = torch.device(device)
    reset_peak_memory(target)
    splits = split_data(data, config)
    run = config.as_trained
    memory = StepMemory(target)
    batches = TrainingBatches(splits.train, run, target, memory.left_out, config.branch_images)
    test = EvaluationBatches(splits.test, target, _EVALUATION_BATCH[target.type])
    validation = EvaluationBatches(splits.validation, target, _EVALUATION_BATCH[target.type])
    model = build_network(config, len(data.class_names), data.input_shape)
    model = model.to(target).to(memory_format=torch.channels_last)
    num_measured = len(measured_steps(batches.num_batches, config.instrument_every_steps))
    probe = LayerProbe(model, [p.detach().clone() for p in model.parameters() if p.requires_grad], num_measured)
    optimizer = build_optimizer(model, run)
    steps_engine = ENGINES[engine](model, optimizer, run, target, batches.num_batches)
    records = TrialRecords.empty() if resume is None else _restore(resume, config, data, model, optimizer)
    first_epoch = 1 if resume is None else resume.epoch + 1
    if first_epoch <= config.branch_epoch:
        raise ValueError("a branch goes on from its parent's state: give that, or --out, where it is made and kept")
    parent_steps = config.branch_epoch * (len(splits.train.labels) // config.batch_size)
    name = trial_id(config, data.fingerprint)

    if target.type == "cuda" or engine != "eager":
        started = time.perf_counter()
        with fp32_of(config):
            _prepare(steps_engine, model, batches, test, splits.train, config)
        on_prepared(time.perf_counter() - started)
    for epoch in range(first_epoch, config.last_epoch + 1):
        first_step = parent_steps + (epoch - 1 - config.branch_epoch) * batches.num_batches
        steps_engine.begin_epoch(scheduled_learning_rate(run, epoch - 1))
        memory.begin()
        with fp32_of(config), _random_stream(config, epoch, target):
            started = time.perf_counter()
            totals = _train_epoch(model, steps_engine, batches, probe, config, name, epoch, first_step, stop)
            if totals is None:
                return
            trained = time.perf_counter()
            noted, of_layers, instrument_s = _measure_epoch(EpochEnd(model, splits.train, config, epoch, target))
            memory_bytes = memory.peak_bytes()
            measured = time.perf_counter()
            test_scores = evaluate(model, test, run, stop)
            validation_scores = evaluate(model, validation, run, stop)
            if test_scores is None or validation_scores is None:
                return
            evaluated = time.perf_counter()

        images = batches.num_batches * run.batch_size
        metrics: dict[str, Any] = {
            "trial_id": name,
            "epoch": epoch,
            "step": first_step + batches.num_batches,
            "train_loss": float(totals.losses.mean()),
            "train_accuracy": float(totals.correct.sum() / images),
            "test_loss": test_scores.loss,
            "test_accuracy": test_scores.accuracy,
            "test_correct": test_scores.correct_bits() if epoch == config.epochs else None,
            "val_loss": validation_scores.loss,
            "val_accuracy": validation_scores.accuracy,
            "learning_rate": scheduled_learning_rate(run, epoch),
            "train_time_s": trained - started,
            "eval_time_s": evaluated - measured,
            "instrument_time_s": totals.instrument_time_s + measured - trained,
            "images_per_s": images / (trained - started),
            "peak_memory_bytes": memory_bytes,
            **noted,
        }
        steps = _step_records(run, name, epoch, first_step, totals, batches.num_batches)
        layers = totals.measurements.with_last(of_layers).layers
        records = records.extended(TrialRecords(build_table("epochs", [metrics]), steps, layers))

        def take_checkpoint(epoch: int = epoch, records: TrialRecords = records) -> Checkpoint:
            return Checkpoint(
                config, data.fingerprint, epoch, _copied(model.state_dict()), _copied(optimizer.state_dict()), records
            )

        yield EpochResult(name, epoch, metrics, steps, records, instrument_s, take_checkpoint)
        if not np.isfinite(totals.losses).all():
            raise TrainingDiverged(epoch, first_step + int(np.isfinite(totals.losses).argmin()))


@contextmanager
def _random_stream(config: TrialConfig, epoch: int, device: torch.device) -> Iterator[None]:
    """Within it torch's global stream, of which a network may draw (dropout), is decided by the seed and the epoch."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(stable_seed(f"forward passes of epoch {epoch}", config.seed))
        yield


def _prepare(
    engine: EagerEngine,
    model: nn.Module,
    batches: TrainingBatches,
    test: EvaluationBatches,
    train: Split,
    config: TrialConfig,
) -> None:
    """Do once, in no epoch's time, all that an epoch does; nothing of it is left but what was loaded, chosen and compiled."""
    images, labels = next(iter(batches.epoch(1)))
    probe = LayerProbe(model, [p for p in model.parameters() if p.requires_grad], 1)

    def measure(update: Callable[[], None]) -> None:
        probe.before_step()
        update()
        probe.after_step()
        probe.drain("", 1, [0])

    engine.prepare(images, labels, measure)
    _measure_epoch(EpochEnd(model, train, config, 1, batches.device))
    evaluate(model, test, config)
    if batches.device.type == "cuda":
        torch.cuda.synchronize(batches.device)


def _train_epoch(
    model: nn.Module, engine: EagerEngine, batches: TrainingBatches, probe: LayerProbe,
    config: TrialConfig, name: str, epoch: int, first_step: int, stop: threading.Event | None,
) -> _EpochTotals | None:  # fmt: skip
    """One pass over the training images; None when asked to stop."""
    model.train()
    due = measured_steps(batches.num_batches, config.instrument_every_steps)
    instrument_time_s = take_steps(engine, batches.epoch(epoch), probe, due, stop)
    if instrument_time_s is None:
        return None
    measured = [first_step + step for step in due]
    host_losses, host_correct = torch.stack([engine.losses, engine.correct]).double().cpu().numpy()
    return _EpochTotals(host_losses, host_correct, measured, probe.drain(name, epoch, measured), instrument_time_s)


def take_steps(
    engine: EagerEngine, batches: Iterable[tuple[Tensor, Tensor]], probe: LayerProbe, measured: Collection[int],
    stop: threading.Event | None = None,
) -> float | None:  # fmt: skip
    """A step for each batch, those in `measured` with instruments; returns the host's seconds in them, None when asked to stop.

    Nothing in here waits for the device.
    """
    instrument_time_s = 0.0
    for step, (images, labels) in enumerate(batches):
        if stop is not None and stop.is_set():
            return None
        engine.forward_backward(step, images, labels)
        if step in measured:
            before = time.perf_counter()
            probe.before_step()
            stepping = time.perf_counter()
            engine.update()
            stepped = time.perf_counter()
            probe.after_step()
            instrument_time_s += stepping - before + time.perf_counter() - stepped
        else:
            engine.update()
    return instrument_time_s


def _step_records(
    config: TrialConfig, name: str, epoch: int, first: int, totals: _EpochTotals, num_batches: int
) -> pa.Table:
    """Rows for the steps that are logged or instrumented; what was not measured at a step is null."""
    running = totals.correct.cumsum() / (np.arange(1, num_batches + 1) * config.batch_size)
    measured = {
        step: {
            column: None if values[i] is np.ma.masked else float(values[i])
            for column, values in totals.measurements.steps.items()
        }
        for i, step in enumerate(totals.measured_steps)
    }
    rows = [
        {
            "trial_id": name,
            "epoch": epoch,
            "step": first + step,
            "batch_loss": float(totals.losses[step]),
            "running_accuracy": float(running[step]),
            "learning_rate": scheduled_learning_rate(config, epoch - 1),
            **measured.get(first + step, {}),
        }
        for step in range(num_batches)
        if step % config.log_every_steps == 0 or is_due(step, config.instrument_every_steps)
    ]
    return build_table("steps", rows)


def _measure_epoch(end: EpochEnd) -> tuple[dict[str, Any], dict[str, Array], dict[str, float]]:
    """Columns of epochs and of layers that the instruments due at this epoch measure, and the host time that each took."""
    noted: dict[str, Any] = {}
    of_layers: dict[str, Array] = {}
    taken_s: dict[str, float] = {}
    for one in EPOCH_INSTRUMENTS:
        if is_due(end.epoch - 1, one.cadence(end.config)):
            started = time.perf_counter()
            found = dict(one.measure(end))
            of_layers |= {column.name: found.pop(column.name) for column in one.layer_columns if column.name in found}
            noted |= found
            taken_s[one.name] = time.perf_counter() - started
    return noted, of_layers, taken_s


def _restore(
    checkpoint: Checkpoint, config: TrialConfig, data: ImageData, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrialRecords:
    """Put model and optimizer into the checkpoint's state and return its records."""
    if checkpoint.config != config or checkpoint.data_fingerprint != data.fingerprint:
        raise ValueError("the checkpoint belongs to another configuration or other data")
    how = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(_copied(checkpoint.optimizer))
        for group, own in zip(optimizer.param_groups, how, strict=True):
            group.update(own)  # how it steps is the configuration's and this device's business, as `fused` is
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the checkpoint does not fit the model: {first_line(error)}") from error
    return checkpoint.records


def _copied(state: Any) -> Any:
    """A state dict with every tensor cloned, on the device it is on: the host copy is the writer's business."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_copied(value) for value in state]
    return state
