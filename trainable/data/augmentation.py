"""Batches of images on the training device: per-image random crop, flip, RandAugment, colour jitter, normalisation, cutout.

Crop, flip and jitter are the published pipeline (torchvision on PIL images) applied to many images at once, pixel for pixel equal to it. Every
random draw is a function of (seed, epoch) alone; neither the global random state nor the device or chunk size has a part in it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainable.config import TrialConfig
from trainable.data.data_set import Split
from trainable.data.image_data import PUBLISHED, ImageArray, LabelArray, Normalisation
from trainable.data.pixels import BRIGHTNESS, CONTRAST, SATURATION, crop, cut_out, jitter, rand_augment

_JITTER_ORDERS = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION)))
_CHUNK_IMAGES = {"cpu": 256}  # augmented at once ahead of the steps: on a CPU what fits its cache
_CHUNK_IMAGES_ELSEWHERE = 8192


@dataclass(frozen=True)
class AugmentationDraws:
    """What is drawn for each of n images: parts that are turned off in the configuration are None."""

    crops: Tensor | None  # int64 (n, 2): first row and column of the crop in the padded image
    padding: int
    flips: Tensor | None  # bool (n,)
    factors: Tensor | None  # float32 (n, 3): brightness, contrast, saturation
    jitter_order: Tensor | None  # int64 (n, 3): which of the three comes first, second, third
    seeds: Tensor | None = None  # int64 (n,): of RandAugment
    operations: tuple[int, int] = (0, 0)  # of RandAugment: their number and magnitude
    holes: Tensor | None = None  # int64 (n, 2): row and column of the centre of cutout's square

    def part(self, start: int, stop: int) -> AugmentationDraws:
        """The draws of images start..stop-1."""
        return self._changed(lambda draws: draws[start:stop])

    def to(self, device: torch.device) -> AugmentationDraws:
        """The same draws on a device; the seeds stay on the CPU, which alone uses them."""
        return replace(self._changed(lambda draws: draws.to(device)), seeds=self.seeds)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> AugmentationDraws:
        drawn = {name: getattr(self, name) for name in ("crops", "flips", "factors", "jitter_order", "seeds", "holes")}
        changed: dict[str, Any] = {name: change(draws) for name, draws in drawn.items() if draws is not None}
        return replace(self, **changed)


def draw_order(num_images: int, config: TrialConfig, epoch: int) -> Tensor:
    """The order (num_images,) in which an epoch goes through the images."""
    return torch.randperm(num_images, generator=_build_generator("order", config, epoch))


def draw_augmentation(
    num_images: int, config: TrialConfig, epoch: int, size: tuple[int, int] = (32, 32)
) -> AugmentationDraws:
    """What is drawn for the images of an epoch, in the epoch's order, on the CPU. Each kind of draw has its own stream.

    `size` is the height and width of the images.
    """
    crops = flips = factors = jitter_order = seeds = holes = None
    if config.crop_padding:
        generator = _build_generator("crop", config, epoch)
        crops = torch.randint(0, 2 * config.crop_padding + 1, (num_images, 2), generator=generator)
    if config.flip_probability:
        flips = torch.rand(num_images, generator=_build_generator("flip", config, epoch)) < config.flip_probability
    if config.color_jitter:
        uniform = torch.rand(num_images, 3, generator=_build_generator("jitter", config, epoch))
        factors = 1 + config.color_jitter * (2 * uniform - 1)
        generator = _build_generator("jitter order", config, epoch)
        chosen = torch.randint(0, len(_JITTER_ORDERS), (num_images,), generator=generator)
        jitter_order = torch.tensor(_JITTER_ORDERS)[chosen]
    if config.randaugment:
        seeds = torch.randint(0, 2**31, (num_images,), generator=_build_generator("randaugment", config, epoch))
    if config.cutout:
        places = torch.rand(num_images, 2, generator=_build_generator("cutout", config, epoch), dtype=torch.float64)
        holes = (places * torch.tensor(size)).long()
    operations = (config.randaugment, config.randaugment_magnitude)
    return AugmentationDraws(crops, config.crop_padding, flips, factors, jitter_order, seeds, operations, holes)


def augment(images: Tensor, draws: AugmentationDraws) -> Tensor:
    """uint8 (n, height, width, channels) -> the same, cropped, flipped and colour-jittered; equal to torchvision on PIL images.

    With seeds RandAugment comes between flip and jitter.
    """
    height, width, channels = images.shape[1:]
    planes = images.permute(3, 0, 1, 2)  # channel first: each operation then runs over long rows
    if draws.crops is not None:
        planes = crop(planes, draws.crops, draws.padding)
    planes = planes.to(torch.float32, memory_format=torch.contiguous_format)
    if draws.flips is not None:
        planes = torch.where(draws.flips[:, None, None], planes.flip(-1), planes)
    if draws.seeds is not None:
        pictures = planes.permute(1, 2, 3, 0).to(torch.uint8, memory_format=torch.contiguous_format)
        planes = rand_augment(pictures, draws.seeds, *draws.operations).permute(3, 0, 1, 2)
        planes = planes.to(torch.float32, memory_format=torch.contiguous_format)
    if draws.factors is not None and draws.jitter_order is not None:
        flat = planes.reshape(channels, len(images), height * width)
        for stage in range(3):
            jitter(flat, draws.jitter_order[:, stage], draws.factors)
        planes = flat.view(channels, len(images), height, width)
    return planes.permute(1, 2, 3, 0).to(torch.uint8, memory_format=torch.contiguous_format)


def normalise(images: Tensor, by: Normalisation = PUBLISHED) -> Tensor:
    """uint8 (n, height, width, channels) -> float32 (n, channels, height, width) in channels_last memory, by mean and deviation."""
    scale, shift = _normalisation(images.device, by, images.shape[1] * images.shape[2])
    flat = images.reshape(len(images), -1).float().mul_(scale).add_(shift)
    return flat.view(images.shape).permute(0, 3, 1, 2)


class TrainingBatches:
    """The training images of a trial on its device, and the augmented batches of any epoch; the last partial one is dropped."""

    def __init__(
        self, split: Split, config: TrialConfig, device: torch.device,
        ahead: Callable[[], AbstractContextManager[None]] = nullcontext, num_images: int | None = None,
    ) -> None:  # fmt: skip
        """`ahead` is entered around what is done ahead of the steps; `num_images`: of an epoch's order only the first."""
        self._ahead = ahead
        self.num_batches = (len(split.labels) if num_images is None else num_images) // config.batch_size
        self.device = device
        self._config = config
        self._images, self._labels = _to_device(split.images, device), _to_device(split.labels, device)
        self._normalisation = split.normalisation
        height, width = self._images.shape[1:3]
        _normalisation(
            self._images.device, split.normalisation, height * width
        )  # copied there now, not at the first step

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (B, 3, 32, 32) and labels (B,) of each step; augmented ahead of the steps, many at once.

        All draws are made and copied to the device by this call, so that no step waits for a copy.
        """
        num_images = len(self._labels)
        order = draw_order(num_images, self._config, epoch).to(self.device)
        height, width = self._images.shape[1:3]
        draws = draw_augmentation(num_images, self._config, epoch, (height, width)).to(self.device)
        return self._batches(order, draws)

    def _batches(self, order: Tensor, draws: AugmentationDraws) -> Iterator[tuple[Tensor, Tensor]]:
        size = self._config.batch_size
        chunk = max(1, _CHUNK_IMAGES.get(self.device.type, _CHUNK_IMAGES_ELSEWHERE) // size) * size
        for start in range(0, self.num_batches * size, chunk):
            stop = min(start + chunk, self.num_batches * size)
            chosen = order[start:stop]
            with self._ahead():
                drawn = draws.part(start, stop)
                images = normalise(augment(self._images[chosen], drawn), self._normalisation)
                if drawn.holes is not None:
                    images = cut_out(images, drawn.holes, self._config.cutout)
                labels = self._labels[chosen]
            yield from zip(torch.split(images, size), torch.split(labels, size), strict=True)


class EvaluationBatches:
    """All images of a split on the device, normalised batch by batch in their order; the last partial batch is kept."""

    def __init__(self, split: Split, device: torch.device, batch_size: int) -> None:
        self.num_images = len(split.labels)
        self._batch_size, self._normalisation = batch_size, split.normalisation
        self._images, self._labels = _to_device(split.images, device), _to_device(split.labels, device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.num_images, self._batch_size):
            part = slice(start, start + self._batch_size)
            yield normalise(self._images[part], self._normalisation), self._labels[part]


def first_batches(
    split: Split, config: TrialConfig, epoch: int, num_batches: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """The batches that an epoch begins with, up to so many; only their images are copied to the device."""
    num_images, size = len(split.labels), config.batch_size
    wanted = min(num_batches, num_images // size) * size
    chosen = draw_order(num_images, config, epoch)[:wanted].numpy()
    part = replace(split, images=split.images[chosen], labels=split.labels[chosen])
    height, width = split.images.shape[1:3]
    draws = draw_augmentation(num_images, config, epoch, (height, width)).part(0, wanted).to(device)
    return list(TrainingBatches(part, config, device)._batches(torch.arange(wanted, device=device), draws))


def fixed_images(split: Split, num_images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Up to so many images, normalised and not augmented, with their labels: the same at every epoch and of every seed."""
    chosen = torch.linspace(0, len(split.labels) - 1, min(num_images, len(split.labels))).long().numpy()
    images, labels = (torch.from_numpy(part[chosen]).to(device) for part in (split.images, split.labels))
    return normalise(images, split.normalisation), labels


def _build_generator(purpose: str, config: TrialConfig, epoch: int) -> torch.Generator:
    digest = hashlib.sha256(f"{purpose}/{config.seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # torch uses no more than 32 bits


@functools.cache
def _normalisation(device: torch.device, by: Normalisation, num_pixels: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of every value of an image (pixels x channels,), kept on the device so that no step waits for a copy.

    Repeated to a whole image, because broadcasting three numbers along the last axis is ten times slower.
    """
    scale = torch.tensor([1 / (255 * std) for std in by.std])
    shift = torch.tensor([-mean / std for mean, std in zip(by.mean, by.std, strict=True)])
    return scale.repeat(num_pixels).to(device), shift.repeat(num_pixels).to(device)


def _to_device(array: ImageArray | LabelArray, device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # shared memory is read-only, and only read here
        return torch.from_numpy(array).to(device)
