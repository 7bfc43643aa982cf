"""How fast the studied configurations train on this machine: a few real steps of each, as many at once as in the study.

Times `trainable.training.loop.train` itself on a small part of the data, in processes of their own with the threads and the GPU that a
trial gets, so neighbours slow each other as they will later. Knows no Ray; imports torch only in those processes.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any

from study.plan.epoch_times import EpochTimes, cost_key, epoch_images
from study.plan.gpus import VISIBLE_DEVICES, claimed_gpus
from study.plan.resources import Machine, ResourceError, TrialResources, is_part, num_gpus_used
from trainable.config import TrialConfig
from trainable.data.image_data import ImageData
from trainable.instrument import measured_steps
from trainable.records.columns import EPOCH_INSTRUMENTS
from trainable.user_code import Source, UserCodeError, provide, provided

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from trainable.records.trial_state import TrialState

TIMED_S = 4.0  # about so long an epoch of the calibration trains, if this machine is as fast as the reference one
LEAST_STEPS = 4
MOST_STEPS = 100  # of small networks, whose steps take far longer than their FLOPs say
NUM_EVALUATED = 500
_TIME_LIMIT_S = 1_800.0
_BARRIER_LIMIT_S = 1_500.0  # the check of an engine may take minutes in one of them
_UNKNOWN_EPOCH_S = 10.0  # of a GPU that nobody knows anything of
_barrier: threading.Barrier | None = None
_device = "cpu"


@dataclass(frozen=True)
class Speed:
    """What one trial of a configuration costs beside its neighbours of the same kind."""

    step_s: float  # a training step, augmentation included
    measurement_s: float  # the instruments at one measured step
    epoch_instruments_s: Mapping[
        str, float
    ]  # one measurement of each instrument at an epoch's end, on its usual images
    evaluated_image_s: float
    peak_memory_bytes: int  # of the trial's process, the data set not counted

    def epoch_s(self, config: TrialConfig, num_train: int, num_evaluated: int) -> float:
        """One epoch of `config` on so many images."""
        steps = num_train // config.batch_size
        measured = len(measured_steps(steps, config.instrument_every_steps))
        at_end = (
            self.epoch_instruments_s.get(one.name, 0.0) / every
            for one in EPOCH_INSTRUMENTS
            if (every := one.cadence(config))
        )
        return (
            steps * self.step_s + measured * self.measurement_s + sum(at_end) + num_evaluated * self.evaluated_image_s
        )


SpeedKey = tuple[object, ...]


def speed_key(config: TrialConfig) -> SpeedKey:
    """Configurations of the same key cost the same per step."""
    return config.width, config.batch_size, *cost_key(config)


def calibrate(
    configs: Iterable[TrialConfig],
    data: ImageData,
    machine: Machine,
    resources: TrialResources,
    times: EpochTimes,
    unfit: Collection[str] = (),
) -> dict[SpeedKey, Speed]:
    """Time one configuration of each key where its trials will run; `times` decides how many steps are enough.

    GPUs are claimed meanwhile, and trials spread over them as in the study; in the place of those with a name in `unfit` the CPU
    trains. Errors: ResourceError where the timing processes end without an answer; GpuTakenError.
    """
    kinds = {speed_key(config): config for config in configs}
    slots = resources.max_concurrent
    context = multiprocessing.get_context("spawn")
    shared, number = is_part(resources.gpus_per_trial), num_gpus_used(machine, resources)
    with claimed_gpus(machine.gpus, number, shared=shared) as gpus:
        of_slots = context.SimpleQueue()
        for slot in range(slots):
            gpu = gpus[slot % number] if number else None
            of_slots.put(None if gpu is None or gpu.name in unfit else gpu.uuid)
        with ProcessPoolExecutor(
            slots, context, initializer=_join, initargs=(context.Barrier(slots), of_slots, provided())
        ) as pool:
            try:
                return {
                    key: _combine(
                        pool.map(_measure, *zip(*[_task(config, data, resources, times)] * slots, strict=True),
                                 timeout=_TIME_LIMIT_S)
                    )
                    for key, config in kinds.items()
                }  # fmt: skip
            except UserCodeError as error:
                raise ResourceError(f"--calibrate: {error}") from error
            except (OSError, RuntimeError, TimeoutError) as error:
                raise ResourceError(f"--calibrate: the timing ended early ({type(error).__name__} {error})") from error


def actual_training_s(before: Sequence[TrialState], after: Sequence[TrialState]) -> float | None:
    """From the first trial's first step of this attempt to the last one's end; None where no trial has ended."""
    earlier = {state.trial_id: state.wall_time_s for state in before}  # 0 s of those that a search has added since
    spans = [
        (datetime.fromisoformat(state.ended_at).timestamp(), state.wall_time_s - earlier.get(state.trial_id, 0.0))
        for state in after
        if state.ended_at is not None and state.wall_time_s > earlier.get(state.trial_id, 0.0)
    ]
    return max(end for end, _ in spans) - min(end - took for end, took in spans) if spans else None


def _task(
    config: TrialConfig, data: ImageData, resources: TrialResources, times: EpochTimes
) -> tuple[TrialConfig, ImageData, int]:
    """The shortened configuration, as much of the data as it needs, and the number of threads."""
    epoch_s = times.estimate_s(config)[0] or _UNKNOWN_EPOCH_S
    num_images = epoch_images(config)[0]
    wanted_steps = min(round(TIMED_S / epoch_s * num_images / config.batch_size), num_images // config.batch_size)
    wanted_steps = min(max(wanted_steps, LEAST_STEPS), MOST_STEPS)
    num_train = min(wanted_steps, len(data.train_labels) // config.batch_size) * config.batch_size
    num_test = min(NUM_EVALUATED, len(data.test_labels))
    # An instrument that the configuration turns on measures both epochs, whatever its cadence.
    due: dict[str, Any] = {
        one.every: min(one.cadence(config), 1) for one in EPOCH_INSTRUMENTS if isinstance(one.every, str)
    }
    shortened = replace(
        config, train_limit=num_train, test_limit=num_test, validation_size=0, epochs=2, warmup_epochs=0,
        **due,
        learning_rate=1e-6,  # costs the same as any other and never diverges
    )  # fmt: skip
    part = replace(
        data, train_images=data.train_images[:num_train].copy(), train_labels=data.train_labels[:num_train].copy(),
        test_images=data.test_images[:num_test].copy(), test_labels=data.test_labels[:num_test].copy(),
    )  # fmt: skip
    return shortened, part, resources.cpus_per_trial


def _join(barrier: threading.Barrier, gpus: SimpleQueue[str | None], code: tuple[Source, ...]) -> None:
    """Take a slot's GPU, before torch is imported: its UUID, or None for the CPU; and the modules of the user's."""
    global _barrier, _device
    provide(code)
    _barrier, gpu = barrier, gpus.get()
    if gpu is not None:
        os.environ[VISIBLE_DEVICES], _device = gpu, "cuda"


def _measure(config: TrialConfig, data: ImageData, num_threads: int) -> Speed:
    """Two epochs: the first warms up; the second is timed, but an instrument that is not due in it, as in the first."""
    import torch

    from trainable.device.engine_check import choose_engine
    from trainable.training.loop import train

    torch.set_num_threads(num_threads)
    assert _barrier is not None
    results = []
    try:
        epochs = train(
            config,
            data,
            device=_device,
            engine=choose_engine(config, _device, len(data.class_names), data.input_shape).name,
        )
        for _ in range(config.epochs):
            _barrier.wait(_BARRIER_LIMIT_S)
            results.append(next(epochs))
    except BaseException:
        _barrier.abort()  # the neighbours wait for nobody then
        raise
    first, timed = results
    at_end_s = {**first.instrument_s, **timed.instrument_s}
    num_images = len(data.train_labels)
    steps = num_images // config.batch_size
    measured = len(measured_steps(steps, config.instrument_every_steps))
    in_steps_s = timed.metrics["instrument_time_s"] - sum(timed.instrument_s.values())
    return Speed(
        step_s=(timed.metrics["train_time_s"] - in_steps_s) / steps,
        measurement_s=in_steps_s / measured if measured else 0.0,
        epoch_instruments_s={
            one.name: at_end_s[one.name] * max(one.num_images / num_images, 1.0)
            for one in EPOCH_INSTRUMENTS
            if one.name in at_end_s
        },
        evaluated_image_s=timed.metrics["eval_time_s"] / len(data.test_labels),
        peak_memory_bytes=int(timed.metrics["peak_memory_bytes"]),
    )


def _combine(speeds: Iterable[Speed]) -> Speed:
    """Of the slots that trained at the same time: mean times, highest memory."""
    found = list(speeds)
    return Speed(
        step_s=fmean(speed.step_s for speed in found),
        measurement_s=fmean(speed.measurement_s for speed in found),
        epoch_instruments_s={
            name: fmean(speed.epoch_instruments_s[name] for speed in found) for name in found[0].epoch_instruments_s
        },
        evaluated_image_s=fmean(speed.evaluated_image_s for speed in found),
        peak_memory_bytes=max(speed.peak_memory_bytes for speed in found),
    )
