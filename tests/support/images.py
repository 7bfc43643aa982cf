"""A small data set for tests: random images whose brightness depends on their class, made in milliseconds."""

from __future__ import annotations

import numpy as np

from trainable.data.image_data import ImageData, build_image_data


def make_image_data(num_train: int = 192, num_test: int = 50, num_classes: int = 10, seed: int = 0) -> ImageData:
    """Learnable within a few steps; classes take turns, so every part of it is balanced."""
    rng = np.random.default_rng(seed)
    return build_image_data(
        "synthetic",
        _draw(rng, num_train, num_classes),
        _draw(rng, num_test, num_classes),
        [f"class {label}" for label in range(num_classes)],
        "made for a test",
    )


def _draw(rng: np.random.Generator, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.arange(count) % num_classes).astype(np.int64)
    noise = rng.integers(0, 60, (count, 32, 32, 3))
    return (noise + 19 * labels[:, None, None, None]).astype(np.uint8), labels
