"""Batches of images on the training device: per-image random crop, flip and colour jitter, then normalisation.

The published pipeline (torchvision on PIL images) applied to many images at once, pixel for pixel equal to it. Every
random draw is a function of (seed, epoch) alone; neither the global random state nor the device or chunk size has a part in it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainable.config import TrialConfig
from trainable.data.data_set import Split
from trainable.data.image_data import ImageArray, LabelArray

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
SIZE = 32  # pixels of height and width

_BRIGHTNESS, _CONTRAST, _SATURATION = range(3)
_JITTER_ORDERS = tuple(itertools.permutations((_BRIGHTNESS, _CONTRAST, _SATURATION)))
_GRAY_WEIGHTS = (19595 / 65536, 38470 / 65536, 7471 / 65536)  # Pillow's luma; exact in float32, and so are all sums
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

    def part(self, start: int, stop: int) -> AugmentationDraws:
        """The draws of images start..stop-1."""
        return self._changed(lambda draws: draws[start:stop])

    def to(self, device: torch.device) -> AugmentationDraws:
        """The same draws on a device."""
        return self._changed(lambda draws: draws.to(device))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> AugmentationDraws:
        crops, flips, factors, jitter_order = (
            None if draws is None else change(draws)
            for draws in (self.crops, self.flips, self.factors, self.jitter_order)
        )
        return AugmentationDraws(crops, self.padding, flips, factors, jitter_order)


def draw_order(num_images: int, config: TrialConfig, epoch: int) -> Tensor:
    """The order (num_images,) in which an epoch goes through the images."""
    return torch.randperm(num_images, generator=_build_generator("order", config, epoch))


def draw_augmentation(num_images: int, config: TrialConfig, epoch: int) -> AugmentationDraws:
    """What is drawn for the images of an epoch, in the epoch's order, on the CPU. Each kind of draw has its own stream."""
    crops = flips = factors = jitter_order = None
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
    return AugmentationDraws(crops, config.crop_padding, flips, factors, jitter_order)


def augment(images: Tensor, draws: AugmentationDraws) -> Tensor:
    """uint8 (n, 32, 32, 3) -> the same, cropped, flipped and colour-jittered; equal to torchvision on PIL images."""
    planes = images.permute(3, 0, 1, 2)  # channel first: each operation then runs over long rows
    if draws.crops is not None:
        planes = _crop(planes, draws.crops, draws.padding)
    planes = planes.to(torch.float32, memory_format=torch.contiguous_format)
    if draws.flips is not None:
        planes = torch.where(draws.flips[:, None, None], planes.flip(-1), planes)
    if draws.factors is not None and draws.jitter_order is not None:
        flat = planes.reshape(3, len(images), SIZE * SIZE)
        for stage in range(3):
            _jitter(flat, draws.jitter_order[:, stage], draws.factors)
        planes = flat.view(3, len(images), SIZE, SIZE)
    return planes.permute(1, 2, 3, 0).to(torch.uint8, memory_format=torch.contiguous_format)


def normalise(images: Tensor) -> Tensor:
    """uint8 (n, 32, 32, 3) -> float32 (n, 3, 32, 32) in channels_last memory, with the published mean and deviation."""
    scale, shift = _normalisation(images.device)
    flat = images.reshape(len(images), -1).float().mul_(scale).add_(shift)
    return flat.view(len(images), SIZE, SIZE, 3).permute(0, 3, 1, 2)


class TrainingBatches:
    """The training images of a trial on its device, and the augmented batches of any epoch; the last partial one is dropped."""

    def __init__(
        self, split: Split, config: TrialConfig, device: torch.device,
        ahead: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:  # fmt: skip
        """`ahead` is entered around what is done ahead of the steps."""
        self._ahead = ahead
        self.num_batches = len(split.labels) // config.batch_size
        self.device = device
        self._config = config
        self._images, self._labels = _to_device(split.images, device), _to_device(split.labels, device)
        _normalisation(self._images.device)  # copied there now, not at the first step

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (B, 3, 32, 32) and labels (B,) of each step; augmented ahead of the steps, many at once.

        All draws are made and copied to the device by this call, so that no step waits for a copy.
        """
        num_images = len(self._labels)
        order = draw_order(num_images, self._config, epoch).to(self.device)
        draws = draw_augmentation(num_images, self._config, epoch).to(self.device)
        return self._batches(order, draws)

    def _batches(self, order: Tensor, draws: AugmentationDraws) -> Iterator[tuple[Tensor, Tensor]]:
        size = self._config.batch_size
        chunk = max(1, _CHUNK_IMAGES.get(self.device.type, _CHUNK_IMAGES_ELSEWHERE) // size) * size
        for start in range(0, self.num_batches * size, chunk):
            stop = min(start + chunk, self.num_batches * size)
            chosen = order[start:stop]
            with self._ahead():
                images = normalise(augment(self._images[chosen], draws.part(start, stop)))
                labels = self._labels[chosen]
            yield from zip(torch.split(images, size), torch.split(labels, size), strict=True)


class EvaluationBatches:
    """All images of a split on the device, normalised batch by batch in their order; the last partial batch is kept."""

    def __init__(self, split: Split, device: torch.device, batch_size: int) -> None:
        self.num_images = len(split.labels)
        self._batch_size = batch_size
        self._images, self._labels = _to_device(split.images, device), _to_device(split.labels, device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.num_images, self._batch_size):
            part = slice(start, start + self._batch_size)
            yield normalise(self._images[part]), self._labels[part]


def _build_generator(purpose: str, config: TrialConfig, epoch: int) -> torch.Generator:
    digest = hashlib.sha256(f"{purpose}/{config.seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # torch uses no more than 32 bits


@functools.cache
def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift of every value of an image (3072,), kept on the device so that no step waits for a copy.

    Repeated to a whole image, because broadcasting three numbers along the last axis is ten times slower.
    """
    scale = torch.tensor([1 / (255 * std) for std in STD])
    shift = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)])
    return scale.repeat(SIZE * SIZE).to(device), shift.repeat(SIZE * SIZE).to(device)


def _crop(planes: Tensor, corners: Tensor, padding: int) -> Tensor:
    """(3, n, 32, 32) -> the same size, from the corners (n, 2) on in the black-padded images."""
    padded = F.pad(planes, (padding, padding, padding, padding))
    windows = padded.unfold(2, SIZE, 1).unfold(3, SIZE, 1)  # (3, n, 2p+1, 2p+1, 32, 32), a view
    return windows[:, torch.arange(len(corners), device=corners.device), corners[:, 0], corners[:, 1]]


def _jitter(planes: Tensor, operation: Tensor, factors: Tensor) -> None:
    """Change planes (3, n, pixels) by one operation per image, as Pillow does and rounds it.

    Brightness, contrast and saturation are one blend, other + factor * (image - other), where the other image is
    black, of its mean gray, or its gray version. The result is clipped and cut to whole numbers.
    """
    red, green, blue = planes
    weight_red, weight_green, weight_blue = _GRAY_WEIGHTS
    gray = red * weight_red
    gray.add_(green, alpha=weight_green).add_(blue, alpha=weight_blue).add_(0.5).floor_()
    mean = gray.mean(dim=1, keepdim=True).add_(0.5).floor_()
    factor = factors.gather(1, operation[:, None])
    is_contrast, is_saturation = (operation[:, None] == kind for kind in (_CONTRAST, _SATURATION))
    other = gray.mul_(is_saturation).add_(mean.mul_(is_contrast))
    planes.sub_(other).mul_(factor).add_(other).clamp_(0, 255).floor_()


def _to_device(array: ImageArray | LabelArray, device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # shared memory is read-only, and only read here
        return torch.from_numpy(array).to(device)
