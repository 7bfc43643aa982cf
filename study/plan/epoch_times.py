"""How long an epoch takes where nothing was timed: by the reference machine's cores, or a guess from a GPU's peak.

What earlier trials took on the same device corrects it (earlier_trials.py). Imports neither torch nor Ray.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from study.plan.networks import is_published, network_size
from study.plan.resources import Machine, TrialResources, num_gpus_used
from trainable.config import TrialConfig
from trainable.data.image_data import IMAGE_SHAPE
from trainable.data.kinds import find_kind, sizes_of
from trainable.fingerprint import cpu_name
from trainable.user_code import is_reference

# Training images per second and CPU core at some widths, measured by tests/benchmarks/training.py on the project's
# reference machine (docs/benchmarks.md). Other machines differ; the live table corrects the estimate from the first epoch on.
REFERENCE_IMAGES_PER_S = {8: 930.0, 16: 600.0, 64: 56.0}
EVALUATION_COST = 1 / 3  # of a training image: the forward pass alone
REFERENCE_BASIS = "judged by the speed of the reference machine's cores"
_UNKNOWN_SIZES = (50_000, 10_000)  # assumed for trials of a data set that this process has not read
_NO_TIMES = "no times are known of another network than ResNet18; --calibrate times it"
# Assumed, not measured: what training reaches of the peak that a GPU's ordinary cores have in fp32. bf16 and TF32 run on others.
_SHARE_OF_PEAK = {"fp32": 0.4, "published": 0.6, "bf16": 1.5}
# The host's time for a step of about 310 kernels: measured on fake tensors without a GPU; of two CUDA graphs it is assumed.
_HOST_STEP_S = {"graph": 0.001}
_HOST_EAGER_STEP_S = 0.0034


@dataclass(frozen=True)
class Hardware:
    """What trials run on, as far as their speed depends on it."""

    device: str | None = None  # as trials record it; None: not known before they run
    num_threads: int = 1
    gpu_share: float = 0.0
    timing_exclusive: bool = False
    peak_tflops: float | None = None  # of a GPU in fp32; None: not known, or a CPU
    trials_per_gpu: int = 1


@dataclass(frozen=True)
class EarlierTrial:
    """What an epoch of a trial of an earlier study took on the same hardware."""

    config: TrialConfig
    epoch_s: float


@dataclass(frozen=True)
class EpochTimes:
    """Estimates of epochs on some hardware, and the earlier trials that correct them."""

    hardware: Hardware
    earlier: tuple[EarlierTrial, ...] = ()
    left_out: tuple[str, ...] = ()  # earlier studies that are not used, and why

    def estimate_s(self, config: TrialConfig) -> tuple[float | None, str]:
        """Seconds of an epoch and in words what they rest on; None where nobody can say.

        Earlier trials with this kind of network, precision and engine count, those of the nearest width and batch size: the median of what they
        took over what was guessed for them.
        """
        hardware = self.hardware
        guessed_s = guess_epoch_s(config, hardware)
        alike = [
            trial for trial in self.earlier
            if cost_key(trial.config) == cost_key(config)
        ]  # fmt: skip
        if not alike:
            return guessed_s, _describe_guess(config, hardware, guessed_s)
        nearest = min(_distance(trial.config, config) for trial in alike)
        used = [trial for trial in alike if _distance(trial.config, config) == nearest]
        if guessed_s is None:  # nothing is known but computation
            factor = median(trial.epoch_s / epoch_flops(trial.config) for trial in used)
            found_s = factor * epoch_flops(config)
        else:
            factor = median(trial.epoch_s / (guess_epoch_s(trial.config, hardware) or math.inf) for trial in used)
            found_s = factor * guessed_s
        scaled = (
            "" if nearest == 0 else f", scaled from width {used[0].config.width} and batch {used[0].config.batch_size}"
        )
        number = f"{len(used)} earlier trial{'s' if len(used) > 1 else ''}"
        return found_s, f"as {number} took on this device ({hardware.device}, {config.precision}{scaled})"


def find_hardware(machine: Machine, resources: TrialResources) -> Hardware:
    """What trials with these resources run on. Of several kinds of GPUs the slowest counts; those of a cluster are not known."""
    if machine.is_cluster:
        return Hardware(None, resources.cpus_per_trial, resources.gpus_per_trial)
    if not resources.gpus_per_trial:
        return Hardware(cpu_name(), resources.cpus_per_trial, 0.0, resources.timing_exclusive)
    used = machine.gpus[: num_gpus_used(machine, resources)]
    slowest = min(used, key=lambda gpu: gpu.peak_tflops or 0.0)
    per_gpu = math.ceil(resources.max_concurrent / len(used))
    return Hardware(
        slowest.name, resources.cpus_per_trial, resources.gpus_per_trial, resources.timing_exclusive,
        slowest.peak_tflops, per_gpu,
    )  # fmt: skip


def cost_key(config: TrialConfig) -> tuple[object, ...]:
    """What must be the same for times to be compared at all; another width or batch size is scaled."""
    network = config.model, config.model_source, config.model_fields
    images = config.dataset if is_reference(config.dataset) else _image_shape(config)
    return (*network, config.precision, config.engine, config.optimizer, config.randaugment, images)


def _image_shape(config: TrialConfig) -> tuple[int, int, int]:
    """Height, width, channels of the images; of images of the user's what they are fitted to, of a function's the published ones."""
    if is_reference(config.dataset):
        return IMAGE_SHAPE
    return find_kind(config.dataset).shape or (config.image_size, config.image_size, IMAGE_SHAPE[2])


def _relative_pixels(config: TrialConfig) -> float:
    """Pixels of an image over those of a published one, by which computation grows about."""
    return math.prod(_image_shape(config)[:2]) / math.prod(IMAGE_SHAPE[:2])


def guess_epoch_s(config: TrialConfig, hardware: Hardware) -> float | None:
    """Seconds of an epoch where nothing is known of the hardware but its kind.

    None for a GPU whose peak is not known, and for other networks than the published one.
    """
    if not is_published(config):
        return None
    train, test = epoch_images(config)
    if not hardware.gpu_share:
        rate = reference_rate(config.width) * hardware.num_threads / _relative_pixels(config)
        return (train + EVALUATION_COST * test) / rate
    if hardware.peak_tflops is None:
        return None
    computing_s, launching_s = _gpu_parts_s(config, hardware.peak_tflops, hardware.trials_per_gpu)
    return max(computing_s, launching_s)


def _gpu_parts_s(config: TrialConfig, peak_tflops: float, trials_per_gpu: int) -> tuple[float, float]:
    """Of an epoch the device's time, and the host's to launch its steps: trials on one GPU share the first only."""
    steps = epoch_images(config)[0] // config.batch_size
    flops_per_s = peak_tflops * 1e12 * _SHARE_OF_PEAK[config.precision] / trials_per_gpu
    return epoch_flops(config) / flops_per_s, steps * _HOST_STEP_S.get(config.engine, _HOST_EAGER_STEP_S)


def _describe_guess(config: TrialConfig, hardware: Hardware, guessed_s: float | None) -> str:
    if not is_published(config):
        return _NO_TIMES
    if not hardware.gpu_share:
        return REFERENCE_BASIS
    if hardware.peak_tflops is None or guessed_s is None:
        return "no GPU times have been measured yet; --calibrate times them"
    computing_s, launching_s = _gpu_parts_s(config, hardware.peak_tflops, hardware.trials_per_gpu)
    if launching_s > computing_s:
        host_ms = 1e3 * _HOST_STEP_S.get(config.engine, _HOST_EAGER_STEP_S)
        return f"a guess, bound by launches: the host needs {host_ms:.2g} ms for a step ({config.engine}), assumed"
    share = _SHARE_OF_PEAK[config.precision]
    return (
        f"a guess: {share:.0%} of the {hardware.peak_tflops:.0f} TFLOP/s that {hardware.device} has in fp32, assumed for "
        f"{config.precision}"
    )


def _distance(one: TrialConfig, other: TrialConfig) -> float:
    return abs(math.log2(one.width / other.width)) + abs(math.log2(one.batch_size / other.batch_size))


def reference_rate(width: int) -> float:
    """Images per second and core, straight lines through the measured widths on logarithmic axes."""
    known = sorted(REFERENCE_IMAGES_PER_S)
    pairs = list(itertools.pairwise(known))
    low, high = next((pair for pair in pairs if width <= pair[1]), pairs[-1])
    slope = math.log(REFERENCE_IMAGES_PER_S[high] / REFERENCE_IMAGES_PER_S[low]) / math.log(high / low)
    return float(REFERENCE_IMAGES_PER_S[low] * (width / low) ** slope)


def epoch_images(config: TrialConfig) -> tuple[int, int]:
    """Training and test images of an epoch, as far as known without reading the data."""
    whole_train, whole_test = sizes_of(config.dataset) or _UNKNOWN_SIZES
    train = min(config.train_limit or math.inf, whole_train) - config.validation_size
    test = min(math.inf if config.test_limit is None else config.test_limit, whole_test) + config.validation_size
    return int(train), int(test)


def train_flops(configs: Iterable[TrialConfig]) -> float:
    """Of training all epochs of these trials, evaluation left out; NaN where a network could not be counted."""
    return sum(epoch_images(config)[0] * config.epochs * _flops_per_image(config) for config in configs)


def epoch_flops(config: TrialConfig) -> float:
    """Of an epoch, its evaluation included."""
    train, test = epoch_images(config)
    return (train + EVALUATION_COST * test) * _flops_per_image(config)


def _flops_per_image(config: TrialConfig) -> float:
    size = network_size(config)
    return math.nan if size is None else size.flops_per_image * _relative_pixels(config)
