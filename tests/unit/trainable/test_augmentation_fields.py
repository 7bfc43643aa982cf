"""Cutout, RandAugment, and images that are grey or not square: each against a second, plain way, and decided by (seed, epoch) alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional as pil

from trainable.config import TrialConfig
from trainable.data.augmentation import EvaluationBatches, TrainingBatches, augment, draw_augmentation, draw_order
from trainable.data.data_set import Split
from trainable.data.image_data import PUBLISHED, ImageData, build_image_data, compute_normalisation
from trainable.records.checkpoint import Checkpoint
from trainable.training.loop import train

CPU = torch.device("cpu")
NONE: dict[str, Any] = {"crop_padding": 0, "flip_probability": 0, "color_jitter": 0}
ADJUSTMENTS = (pil.adjust_brightness, pil.adjust_contrast, pil.adjust_saturation)


def noise(num_images: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (num_images, *shape), dtype=np.uint8)


def epoch_images(split: Split, config: TrialConfig, epoch: int = 1) -> torch.Tensor:
    return torch.cat([images for images, _ in TrainingBatches(split, config, CPU).epoch(epoch)])


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 24, 3), (20, 24, 1)])
def test_images_of_any_shape_are_augmented_as_torchvision_does(shape: tuple[int, int, int]) -> None:
    images, draws = noise(60, *shape), draw_augmentation(60, TrialConfig(), 1, shape[:2])
    found = augment(torch.from_numpy(images), draws)
    assert draws.crops is not None
    assert draws.flips is not None
    assert draws.factors is not None
    assert draws.jitter_order is not None
    for index, image in enumerate(images):
        picture = Image.fromarray(image if shape[2] == 3 else image[..., 0])
        picture = pil.crop(pil.pad(picture, 4), *draws.crops[index].tolist(), *shape[:2])
        picture = pil.hflip(picture) if draws.flips[index] else picture
        for operation in draws.jitter_order[index].tolist():
            picture = ADJUSTMENTS[operation](picture, float(draws.factors[index, operation]))
        assert np.abs(found[index].numpy().astype(int) - np.asarray(picture).reshape(shape).astype(int)).max() <= 1


def test_grey_images_are_normalised_by_their_own_numbers() -> None:
    images = noise(30, 28, 28, 1)
    by = compute_normalisation(images)
    (found, _), *_ = EvaluationBatches(Split(images, np.zeros(30, np.int64), by), CPU, 30)
    expected = (images.transpose(0, 3, 1, 2) / 255 - by.mean[0]) / by.std[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("side", [1, 8, 9, 40])
def test_cutout_blanks_a_square_around_the_drawn_centre(side: int) -> None:
    split = Split(noise(40, 20, 24, 3), np.zeros(40, np.int64), PUBLISHED)
    config = TrialConfig(batch_size=40, cutout=side, **NONE)
    plain, cut = epoch_images(split, replace(config, cutout=0)), epoch_images(split, config)
    holes = draw_augmentation(40, config, 1, (20, 24)).holes
    assert holes is not None
    for index, (row, column) in enumerate(holes.tolist()):
        expected = plain[index].clone()
        top, left = row - side // 2, column - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        assert torch.equal(cut[index], expected)


def test_centres_of_cutout_are_uniform() -> None:
    holes = draw_augmentation(20_000, TrialConfig(cutout=8), 1, (20, 24)).holes
    assert holes is not None
    counts = np.bincount(holes[:, 0] * 24 + holes[:, 1], minlength=480)
    assert len(counts) == 480
    assert stats.chisquare(counts).pvalue > 1e-4


def test_randaugment_is_torchvisions_with_a_seed_for_each_image() -> None:
    images = noise(24, 20, 24, 3)
    config = TrialConfig(batch_size=24, randaugment=2, randaugment_magnitude=12, **NONE)
    order, draws = draw_order(24, config, 1), draw_augmentation(24, config, 1)
    found = augment(torch.from_numpy(images)[order], draws)
    operation = transforms.RandAugment(2, 12)
    assert draws.seeds is not None
    for index, seed in enumerate(draws.seeds.tolist()):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            expected = operation(Image.fromarray(images[order[index]]))
        np.testing.assert_array_equal(found[index].numpy(), np.asarray(expected))
    assert len(set(draws.seeds.tolist())) == 24
    grey = augment(torch.from_numpy(noise(6, 28, 28, 1)), draws.part(0, 6))
    assert grey.shape == (6, 28, 28, 1)


FIELDS = [{"cutout": 8}, {"randaugment": 2}, {"cutout": 12, "randaugment": 1, "color_jitter": 0}]


@pytest.mark.parametrize("changes", FIELDS)
def test_seed_and_epoch_alone_decide_and_nothing_else_is_disturbed(changes: dict[str, Any]) -> None:
    split = Split(noise(64, 32, 32, 3), np.zeros(64, np.int64))
    config = TrialConfig(batch_size=32, seed=3, **changes)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch_images(split, config, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = epoch_images(split, replace(config, batch_size=16, learning_rate=0.3), 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, epoch_images(split, config, 1))
    assert not torch.equal(first, epoch_images(split, replace(config, seed=4), 2))


@pytest.mark.parametrize("changes", FIELDS)
def test_the_other_draws_are_those_of_the_published_training(changes: dict[str, Any]) -> None:
    plain = draw_augmentation(100, TrialConfig(), 1)
    drawn = draw_augmentation(100, TrialConfig(**changes), 1)
    assert torch.equal(drawn.crops, plain.crops)  # type: ignore[arg-type]
    assert torch.equal(drawn.flips, plain.flips)  # type: ignore[arg-type]
    assert (plain.seeds, plain.holes) == (None, None)


def test_a_trial_on_grey_images_goes_on_as_if_uninterrupted() -> None:
    data = grey_data()
    config = TrialConfig(
        dataset="images", width=1, epochs=2, batch_size=16, learning_rate=0.01, cutout=6, randaugment=1,
        instrument_every_steps=0,
    )  # fmt: skip
    results = [(result.take_checkpoint(), result.metrics) for result in train(config, data)]
    halfway = Checkpoint.from_bytes(results[0][0].to_bytes())
    (resumed,) = train(config, data, halfway)
    assert resumed.metrics["train_loss"] == results[1][1]["train_loss"]
    whole, again = results[1][0].model, resumed.take_checkpoint().model
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert whole["conv1.weight"].shape[1] == 1


def grey_data() -> ImageData:
    images, labels = noise(48, 28, 28, 1), np.arange(48, dtype=np.int64) % 3
    return build_image_data("images", (images, labels), (images[:12], labels[:12]), list("abc"), "made for a test")
