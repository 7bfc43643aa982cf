"""Drawn images: always the same, balanced, and neither trivial nor impossible to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainable.data.data_set import ImageData, check_source, load_data
from trainable.data.image_data import build_image_data
from trainable.data.synthetic import CLASS_NAMES, draw_images


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("synthetic")


def test_size_and_balance(data: ImageData) -> None:
    assert data.dataset == "synthetic"
    assert data.train_images.shape == (10_000, 32, 32, 3)
    assert data.train_images.dtype == np.uint8
    assert np.bincount(data.train_labels).tolist() == [1_000] * 10
    assert np.bincount(data.test_labels).tolist() == [200] * 10
    assert len(set(data.class_names)) == 10
    assert data.source == check_source("synthetic") == check_source("synthetic", Path("nowhere"))


def test_the_same_in_every_version_and_on_every_machine() -> None:
    train, test = draw_images(300, 100)
    assert build_image_data("synthetic", train, test, CLASS_NAMES, "").fingerprint[:16] == "759404ba296a2440"


def test_all_images_differ(data: ImageData) -> None:
    every = np.concatenate([data.train_images, data.test_images]).reshape(12_000, -1)
    assert len({row.tobytes() for row in every}) == 12_000


def test_classes_can_be_told_apart_but_not_by_colour_alone(data: ImageData) -> None:
    """The nearest mean image, a classifier that knows tints and no shapes, does better than chance (0.1) and badly."""
    means = np.stack([data.train_images[data.train_labels == label].mean(axis=0) for label in range(10)])
    flat = data.test_images.reshape(len(data.test_images), -1).astype(float)
    distances = -2 * flat @ means.reshape(10, -1).T + (means.reshape(10, -1) ** 2).sum(axis=1)
    assert 0.2 < (distances.argmin(axis=1) == data.test_labels).mean() < 0.5


def test_shapes_are_where_their_names_say(data: ImageData) -> None:
    """The mean deviation from the background over many images of a class shows its shape."""
    centre, border = (slice(14, 18),) * 2, np.s_[:3]
    outlines = {}
    for label, name in enumerate(data.class_names):
        chosen = data.train_images[data.train_labels == label][:300].astype(float)
        outlines[name] = np.abs(chosen - np.median(chosen, axis=(1, 2), keepdims=True)).mean(axis=(0, 3))
    assert outlines["disc"][centre].mean() > 1.3 * outlines["ring"][centre].mean()
    assert outlines["square"][centre].mean() > 1.3 * outlines["frame"][centre].mean()
    assert outlines["plus"][centre].mean() > 1.3 * outlines["plus"][border].mean()
