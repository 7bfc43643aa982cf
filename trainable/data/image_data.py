"""A data set in memory: its arrays, what they are called and the fingerprint that identifies them in a trial.

Knows nothing of where images come from and how they are stored; imports neither torch nor Ray.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]
LabelArray = npt.NDArray[np.int64]
Images = tuple[ImageArray, LabelArray]

IMAGE_SHAPE = (32, 32, 3)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MOST_CLASSES = 256  # what is kept of test images holds their class in a byte
_SIDES = range(8, 513)  # pixels
_CHUNK_IMAGES = 1_000


class DataError(ValueError):
    """Data that cannot be used; one line that says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from the values of a channel, which are fractions of 255, and what they are then divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


PUBLISHED = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_NORMALISED_AS_PUBLISHED = ("cifar10", "synthetic")


@dataclass(frozen=True)
class ImageData:
    """A whole data set in host memory; the arrays are read-only and may be views of shared memory."""

    dataset: str  # its name in configurations
    train_images: ImageArray  # (n, height, width, channels)
    train_labels: LabelArray  # (n,)
    test_images: ImageArray
    test_labels: LabelArray
    class_names: tuple[str, ...]  # by label
    fingerprint: str  # SHA-256 in hex over pixels, labels and class names, in their order
    source: str  # where it came from, in words
    normalisation: Normalisation = PUBLISHED

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image as a network gets it."""
        height, width, channels = self.train_images.shape[1:]
        return channels, height, width


def build_image_data(
    dataset: str,
    train: Images,
    test: Images,
    class_names: Sequence[str],
    source: str,
) -> ImageData:
    """ImageData of these (images, labels), with its fingerprint and normalisation; the arrays become read-only.

    Errors: DataError where labels, images and class names do not fit together.
    """
    _check(train, test, class_names, source)
    arrays = (*train, *test)
    for array in arrays:
        array.flags.writeable = False
    names = tuple(class_names)
    as_published = dataset in _NORMALISED_AS_PUBLISHED
    normalisation = PUBLISHED if as_published else compute_normalisation(train[0])
    return ImageData(dataset, *arrays, names, compute_fingerprint(arrays, names), source, normalisation)


def _check(train: Images, test: Images, class_names: Sequence[str], source: str) -> None:
    if not 2 <= len(class_names) <= MOST_CLASSES:
        raise DataError(f"{source}: {len(class_names)} classes, 2 to {MOST_CLASSES} are possible")
    for part, (images, labels) in (("training", train), ("test", test)):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(
                f"{source}: {part} images are {images.dtype} of shape {images.shape}; uint8 (n, height, width, channels) with 1 or 3 "
                "channels are needed"
            )
        if not len(images) or labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise DataError(
                f"{source}: {len(images)} {part} images with labels of shape {labels.shape}, {labels.dtype}"
            )
        if bad := sorted(set(np.unique(labels).tolist()) - set(range(len(class_names)))):
            raise DataError(f"{source}: {part} label {bad[0]} is not in 0..{len(class_names) - 1}")
        if not set(images.shape[1:3]) <= set(_SIDES):
            raise DataError(
                f"{source}: images of {images.shape[2]}x{images.shape[1]} pixels, 8 to 512 a side are possible"
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{source}: training images are of shape {train[0].shape[1:]}, test images {test[0].shape[1:]}")


def compute_normalisation(images: ImageArray) -> Normalisation:
    """The mean and standard deviation of each channel over all pixels, in four digits; exact, so the same on every machine."""
    channels = images.shape[3]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images), _CHUNK_IMAGES):
        chunk = images[start : start + _CHUNK_IMAGES]
        counts += [np.bincount(chunk[..., channel].ravel(), minlength=256) for channel in range(channels)]
    number, values = int(counts[0].sum()), range(256)
    sums = [sum(int(count) * value for count, value in zip(row, values, strict=True)) for row in counts]
    squares = [sum(int(count) * value * value for count, value in zip(row, values, strict=True)) for row in counts]
    variances = [max(square / number - (total / number) ** 2, 1.0) for total, square in zip(sums, squares, strict=True)]
    return Normalisation(
        tuple(round(total / number / 255, 4) for total in sums), tuple(round(v**0.5 / 255, 4) for v in variances)
    )


def compute_fingerprint(arrays: Sequence[npt.NDArray[np.generic]], class_names: Sequence[str]) -> str:
    """64 hex digits: the SHA-256 of the arrays' shapes, types and bytes, and of the class names."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\0".join(class_names).encode())
    return digest.hexdigest()
