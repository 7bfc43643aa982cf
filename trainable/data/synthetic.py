"""Procedurally drawn 32x32 images of ten kinds of shape, for runs that need no download: learnable, but not trivial.

An image shows one shape of random place, size, tilt, strength and colour (each kind favours a tint, so that something
can be learnt early) before a background that changes slowly, with a spot in its way and noise over all. The same on
every machine: random numbers come from raw PCG64 bits, and only arithmetic that IEEE 754 fixes is used (no sine, no sum
whose order a library may choose), so that the data fingerprint does not depend on processor or NumPy version.
"""

# mypy: disable-error-code="no-any-return"
# NumPy declares most of its arithmetic as Any.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trainable.data.image_data import IMAGE_SHAPE, ImageArray, LabelArray

NUM_TRAIN, NUM_TEST = 10_000, 2_000

_SEED = 32_010
_SIZE = IMAGE_SHAPE[0]
_PERIOD = 0.7  # of stripes, in radii of the shape
_HALF_DIAGONAL = 0.5**0.5

Floats = npt.NDArray[np.float32]
Outline = Callable[[Floats, Floats], Floats]
Tint = tuple[float, float, float]


def draw_images(
    num_train: int = NUM_TRAIN, num_test: int = NUM_TEST
) -> tuple[tuple[ImageArray, LabelArray], tuple[ImageArray, LabelArray]]:
    """(images (n, 32, 32, 3), labels (n,)) for training and for test, always the same; label i mod 10 for image i."""
    return _draw_part(num_train, _SEED), _draw_part(num_test, _SEED + 1)


def _draw_part(num_images: int, seed: int) -> tuple[ImageArray, LabelArray]:
    labels = np.arange(num_images, dtype=np.int64) % len(CLASS_NAMES)
    images = np.empty((num_images, *IMAGE_SHAPE), dtype=np.uint8)
    for label, (inside, tint) in enumerate(_SHAPES.values()):
        chosen = slice(label, None, len(CLASS_NAMES))
        images[chosen] = _draw_shapes(inside, tint, len(labels[chosen]), np.random.PCG64(seed * 100 + label))
    return images, labels


def _draw_shapes(inside: Outline, tint: Tint, num_images: int, bits: np.random.PCG64) -> ImageArray:
    def uniform(low: float, high: float, *shape: int) -> Floats:
        fractions = (bits.random_raw((num_images, *shape)) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        return np.float32(low) + np.float32(high - low) * fractions

    radius, tilt = uniform(8, 13, 1, 1), uniform(-0.2, 0.2, 1, 1)
    across, down = _centred_grid(uniform(11, 20, 1, 1), uniform(11, 20, 1, 1))
    length = radius * np.sqrt(1 + tilt * tilt)
    u, v = (across + tilt * down) / length, (down - tilt * across) / length
    shape = np.clip(inside(u, v) * radius + np.float32(0.5), 0, 1)[..., None]

    canvas = uniform(0.3, 0.7, 1, 1, 3) + np.zeros((_SIZE, _SIZE, 1), dtype=np.float32)
    for distance in (across, down):
        canvas += uniform(-0.012, 0.012, 1, 1, 3) * distance[..., None]
    canvas += shape * uniform(0.2, 0.6, 1, 1, 1) * (np.array(tint, dtype=np.float32) + uniform(-1, 1, 1, 1, 3))
    across, down = _centred_grid(uniform(0, _SIZE, 1, 1), uniform(0, _SIZE, 1, 1))
    spot = np.clip(uniform(2, 4.5, 1, 1) - np.sqrt(across * across + down * down), 0, 1)[..., None]
    canvas += spot * (uniform(0, 1, 1, 1, 3) - canvas)
    canvas += uniform(0.02, 0.2, 1, 1, 1) * uniform(-1, 1, *IMAGE_SHAPE)
    return np.floor(np.clip(canvas, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _centred_grid(column: Floats, row: Floats) -> tuple[Floats, Floats]:
    """Distances in pixels from the centres (n, 1, 1) to the right and downwards: (n, 32, 32) each."""
    pixels = np.arange(_SIZE, dtype=np.float32)
    shape = (len(row), _SIZE, _SIZE)
    return np.broadcast_to(pixels[None, None, :] - column, shape), np.broadcast_to(pixels[None, :, None] - row, shape)


# A shape is a function of coordinates in radii (u to the right, v downwards) that is positive inside, in radii too.


def _disc(u: Floats, v: Floats) -> Floats:
    return 1 - np.sqrt(u * u + v * v)


def _ring(u: Floats, v: Floats) -> Floats:
    return np.float32(0.22) - np.abs(_disc(u, v) - np.float32(0.22))


def _square(u: Floats, v: Floats) -> Floats:
    return np.float32(0.88) - np.maximum(np.abs(u), np.abs(v))


def _frame(u: Floats, v: Floats) -> Floats:
    return np.float32(0.2) - np.abs(_square(u, v) - np.float32(0.2))


def _triangle(u: Floats, v: Floats) -> Floats:
    return np.minimum(np.float32(0.7) - v, (v + 1) / 2 - np.abs(u))


def _plus(u: Floats, v: Floats) -> Floats:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.float32(0.3) - np.minimum(u, v), 1 - np.maximum(u, v))


def _cross(u: Floats, v: Floats) -> Floats:
    return _plus((u + v) * np.float32(_HALF_DIAGONAL), (u - v) * np.float32(_HALF_DIAGONAL))


def _wave(u: Floats) -> Floats:
    """Distance from the edge of the nearest stripe, positive on the stripe."""
    phase = u / np.float32(_PERIOD)
    return (np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(0.25)) * np.float32(_PERIOD)


def _bars(u: Floats, v: Floats) -> Floats:
    return np.minimum(_wave(v), _square(u, v))


def _stripes(u: Floats, v: Floats) -> Floats:
    return np.minimum(_wave(u), _square(u, v))


def _checks(u: Floats, v: Floats) -> Floats:
    across, down = _wave(u), _wave(v)
    same = np.minimum(np.abs(across), np.abs(down)) * np.sign(across) * np.sign(down)
    return np.minimum(same, _square(u, v))


_SHAPES: dict[str, tuple[Outline, Tint]] = {
    "disc": (_disc, (0.7, 0.0, 0.0)),
    "ring": (_ring, (-0.7, 0.0, 0.0)),
    "square": (_square, (0.0, 0.7, 0.0)),
    "frame": (_frame, (0.0, -0.7, 0.0)),
    "triangle": (_triangle, (0.0, 0.0, 0.7)),
    "plus": (_plus, (0.0, 0.0, -0.7)),
    "cross": (_cross, (0.6, 0.6, -0.6)),
    "bars": (_bars, (-0.6, -0.6, 0.6)),
    "stripes": (_stripes, (0.6, -0.6, 0.6)),
    "checks": (_checks, (-0.6, 0.6, -0.6)),
}
CLASS_NAMES = tuple(_SHAPES)
