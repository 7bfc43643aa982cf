"""The fixed, class-balanced parts of a data set, told by images that carry their own number."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from trainable.config import TrialConfig
from trainable.data.data_set import ImageData, Split, split_data
from trainable.data.image_data import CLASS_NAMES, build_image_data


def number_images(labels: np.ndarray) -> np.ndarray:
    """Images whose first two values are their index."""
    images = np.zeros((len(labels), 32, 32, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    return images


def numbers(split: Split) -> list[int]:
    return [int(image[0, 0, 0]) * 256 + int(image[0, 0, 1]) for image in split.images]


def build_data(train_labels: np.ndarray, test_labels: np.ndarray) -> ImageData:
    train, test = ((number_images(labels), labels) for labels in (train_labels, test_labels))
    return build_image_data("cifar10", train, test, CLASS_NAMES, "made here")


@pytest.fixture(scope="module")
def data() -> ImageData:
    """600 training and 200 test images, 60 and 20 of each class, not sorted by it."""
    return build_data(np.arange(600) * 7 % 10, np.arange(200) * 3 % 10)


def config(**changes: int) -> TrialConfig:
    return TrialConfig(**{"batch_size": 10, **changes})  # type: ignore[arg-type]


def counts(split: Split) -> list[int]:
    return [int(count) for count in np.bincount(split.labels, minlength=10)]


def test_without_limits_nothing_is_copied(data: ImageData) -> None:
    parts = split_data(data, config())
    assert parts.train.images is data.train_images
    assert parts.train.labels is data.train_labels
    assert parts.test.images is data.test_images
    assert len(parts.validation.labels) == 0
    assert parts.validation.images.shape == (0, 32, 32, 3)


def test_parts_are_balanced_disjoint_and_complete(data: ImageData) -> None:
    parts = split_data(data, config(train_limit=300, validation_size=50, test_limit=70))
    assert counts(parts.train) == [25] * 10
    assert counts(parts.validation) == [5] * 10
    assert counts(parts.test) == [7] * 10
    assert len(set(numbers(parts.train) + numbers(parts.validation))) == 300
    whole = split_data(data, config(validation_size=50))
    assert sorted(numbers(whole.train) + numbers(whole.validation)) == list(range(600))


def test_images_keep_their_labels(data: ImageData) -> None:
    parts = split_data(data, config(train_limit=300, validation_size=50, test_limit=70))
    for split, labels in ((parts.train, data.train_labels), (parts.validation, data.train_labels), (parts.test, data.test_labels)):  # fmt: skip
        np.testing.assert_array_equal(split.labels, labels[numbers(split)])


def test_sizes_that_ten_does_not_divide_differ_by_one_image_at_most(data: ImageData) -> None:
    parts = split_data(data, config(train_limit=123, validation_size=17, test_limit=9))
    assert (len(parts.train.labels), len(parts.validation.labels), len(parts.test.labels)) == (106, 17, 9)
    for split in (parts.train, parts.validation, parts.test):
        assert max(counts(split)) - min(counts(split)) <= 1


def test_the_split_is_the_same_for_all_trials(data: ImageData) -> None:
    reference = split_data(data, config(train_limit=300, validation_size=50))
    other = split_data(data, config(train_limit=300, validation_size=50, seed=7, batch_size=128, epochs=3))
    assert numbers(other.train) == numbers(reference.train)
    # A smaller limit is a part of a larger one, and the validation images stay.
    smaller = split_data(data, config(train_limit=200, validation_size=50))
    assert set(numbers(smaller.train)) < set(numbers(reference.train))
    assert numbers(smaller.validation) == numbers(reference.validation)


def test_the_split_never_changes_between_versions(data: ImageData) -> None:
    parts = split_data(data, config(train_limit=100, validation_size=20, test_limit=20))
    text = str([numbers(parts.train), numbers(parts.validation), numbers(parts.test)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "7f3743da1953f170"


def test_the_chosen_images_are_a_random_sample(data: ImageData) -> None:
    chosen = numbers(split_data(data, config(train_limit=300)).train)
    assert chosen == sorted(chosen)
    assert 120 < sum(number < 300 for number in chosen) < 180  # expected 150, standard deviation 6.1


def test_classes_of_unequal_size_give_what_they_have() -> None:
    labels = np.repeat(np.arange(10), [2, *[20] * 9])
    parts = split_data(build_data(labels, labels), config(train_limit=92))
    assert counts(parts.train) == [2, *[10] * 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_limit": 601}, "train_limit=601, but the data set has only 600 training images"),
        ({"test_limit": 201}, "test_limit=201, but the data set has only 200 test images"),
        ({"validation_size": 591}, "600 training images less validation_size=591 leave no full batch of batch_size=10"),
        ({"batch_size": 601}, "600 training images less validation_size=0 leave no full batch of batch_size=601"),
    ],
    ids=str,
)
def test_more_than_there_is(data: ImageData, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_data(data, config(**changes))


def test_one_full_batch_is_enough(data: ImageData) -> None:
    assert len(split_data(data, config(validation_size=590)).train.labels) == 10
