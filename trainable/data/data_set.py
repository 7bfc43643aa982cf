"""The data set of a study, loaded once from wherever it is, and the fixed parts of it that every trial uses.

Imports no torch, so that a plan can name its source at once; batches on a device are augmentation.py's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainable.config import TrialConfig
from trainable.data.batch_files import FOLDER_NAME
from trainable.data.cache import (
    default_cache,
    entry_path,
    find_latest_entry,
    read_entry,
    read_entry_source,
    write_entry,
)
from trainable.data.image_data import DataError, ImageArray, ImageData, LabelArray, build_image_data
from trainable.data.sources import Source, compute_source_key, download_batch_files, find_source, read_source
from trainable.data.synthetic import CLASS_NAMES as SYNTHETIC_CLASSES
from trainable.data.synthetic import draw_images

__all__ = ["DataError", "ImageData", "Split", "Splits", "check_source", "load_data", "split_data"]

_SYNTHETIC_SOURCE = "drawn by this program"
_SPLIT_SEED = 20_091  # the same split for every trial of every study
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images (n, 32, 32, 3) and labels (n,) for one purpose."""

    images: ImageArray
    labels: LabelArray


@dataclass(frozen=True)
class Splits:
    """The parts of a data set that a trial uses; validation may be empty."""

    train: Split
    validation: Split
    test: Split


def load_data(dataset: str, folder: Path | None = None, cache: Path | None = None) -> ImageData:
    """The whole data set in memory: 'synthetic', or 'cifar10' from `folder`, else the cache, else torchvision's download.

    Without a folder the cache gives the original batch files if they were downloaded before, else the data set that
    was used last. `cache` is the user's cache folder by default. Errors: DataError.
    """
    if _is_synthetic(dataset):
        return build_image_data("synthetic", *draw_images(), SYNTHETIC_CLASSES, _SYNTHETIC_SOURCE)
    cache = cache or default_cache()
    if folder is not None:
        return _load_source(find_source(folder), cache)
    return _load_downloaded(cache) or _load_latest(cache) or _download(cache)


def check_source(dataset: str, folder: Path | None = None, cache: Path | None = None) -> str:
    """What load_data would use, in words, found without decoding or downloading. Errors: DataError, as far as seen."""
    if _is_synthetic(dataset):
        return _SYNTHETIC_SOURCE
    cache = cache or default_cache()
    if folder is not None:
        return str(find_source(folder))
    try:
        return str(find_source(cache / FOLDER_NAME))
    except DataError:  # never downloaded, or not completely
        latest = find_latest_entry(cache)
    source = read_entry_source(latest) if latest else ""
    return f"{source}, decoded in the cache" if source else f"download by torchvision into {cache}"


def split_data(data: ImageData, config: TrialConfig) -> Splits:
    """The parts that a trial with this configuration uses, independent of its seed; no copy where nothing is limited.

    Limits and the validation part take the first images of one fixed order that cycles through the classes: every part
    is class-balanced (to within one image where classes are of equal size), a smaller limit is a part of a larger one, and the validation
    images are the same for every limit. Errors: ValueError where more is asked for than there is.
    """
    num_train = _limited("train_limit", config.train_limit, len(data.train_labels), "training")
    num_test = _limited("test_limit", config.test_limit, len(data.test_labels), "test")
    if num_train - config.validation_size < config.batch_size:
        raise ValueError(
            f"{num_train} training images less validation_size={config.validation_size} leave no full batch of "
            f"batch_size={config.batch_size}: lower one of the two"
        )
    order = _balanced_order(data.train_labels)
    return Splits(
        train=_take(data.train_images, data.train_labels, order[config.validation_size : num_train]),
        validation=_take(data.train_images, data.train_labels, order[: config.validation_size]),
        test=_take(data.test_images, data.test_labels, _balanced_order(data.test_labels)[:num_test]),
    )


def _is_synthetic(dataset: str) -> bool:
    if dataset not in ("cifar10", "synthetic"):
        raise DataError(f"dataset={dataset!r} is not one of cifar10, synthetic")
    return dataset == "synthetic"


def _load_source(source: Source, cache: Path) -> ImageData:
    if source.layout == "original batch files":
        return read_source(source)  # as quick to read as a cache entry, and checked on the way
    entry = entry_path(cache, compute_source_key(source))
    data = read_entry(entry)
    if data is None:
        data = read_source(source)
        write_entry(entry, data)
    return data


def _load_downloaded(cache: Path) -> ImageData | None:
    if not (cache / FOLDER_NAME).is_dir():
        return None
    try:
        return read_source(find_source(cache / FOLDER_NAME))
    except DataError as error:
        _log.warning("%s; downloading it again", error)
        return _download(cache)


def _load_latest(cache: Path) -> ImageData | None:
    latest = find_latest_entry(cache)
    return read_entry(latest) if latest else None


def _download(cache: Path) -> ImageData:
    download_batch_files(cache)
    return read_source(find_source(cache / FOLDER_NAME))


def _limited(name: str, limit: int | None, available: int, kind: str) -> int:
    if limit is not None and limit > available:
        raise ValueError(f"{name}={limit}, but the data set has only {available} {kind} images")
    return available if limit is None else limit


def _balanced_order(labels: LabelArray) -> npt.NDArray[np.int64]:
    """A fixed random order of the images that takes one of each class in turn while all classes last."""
    # Sorting raw bits, not Generator.permutation: NumPy keeps the bits, not the methods, the same in all versions.
    keys = np.random.PCG64(_SPLIT_SEED).random_raw(len(labels))
    by_class = np.lexsort((keys, labels))
    counts = np.bincount(labels)
    firsts = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - np.repeat(firsts, counts)
    return by_class[np.lexsort((labels[by_class], rank))]


def _take(images: ImageArray, labels: LabelArray, indices: npt.NDArray[np.int64]) -> Split:
    if len(indices) == len(labels):
        return Split(images, labels)
    chosen = np.sort(indices)
    return Split(images[chosen], labels[chosen])
