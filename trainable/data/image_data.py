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

IMAGE_SHAPE = (32, 32, 3)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NUM_CLASSES = len(CLASS_NAMES)


class DataError(ValueError):
    """Data that cannot be used; one line that says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class ImageData:
    """A whole data set in host memory; the arrays are read-only and may be views of shared memory."""

    dataset: str  # 'cifar10' or 'synthetic'
    train_images: ImageArray  # (n, 32, 32, 3)
    train_labels: LabelArray  # (n,)
    test_images: ImageArray
    test_labels: LabelArray
    class_names: tuple[str, ...]  # by label
    fingerprint: str  # SHA-256 in hex over pixels, labels and class names, in their order
    source: str  # where it came from, in words


def build_image_data(
    dataset: str,
    train: tuple[ImageArray, LabelArray],
    test: tuple[ImageArray, LabelArray],
    class_names: Sequence[str],
    source: str,
) -> ImageData:
    """ImageData of these (images, labels), with its fingerprint; the arrays become read-only."""
    arrays = (*train, *test)
    for array in arrays:
        array.flags.writeable = False
    names = tuple(class_names)
    return ImageData(dataset, *arrays, names, compute_fingerprint(arrays, names), source)


def compute_fingerprint(arrays: Sequence[npt.NDArray[np.generic]], class_names: Sequence[str]) -> str:
    """64 hex digits: the SHA-256 of the arrays' shapes, types and bytes, and of the class names."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\0".join(class_names).encode())
    return digest.hexdigest()
