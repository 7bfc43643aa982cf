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
from trainable.data.cache import (
    default_cache,
    entry_path,
    find_latest_entry,
    read_entry,
    read_entry_source,
    write_entry,
)
from trainable.data.functions import call_function
from trainable.data.image_data import (
    IMAGE_SHAPE,
    PUBLISHED,
    DataError,
    ImageArray,
    ImageData,
    LabelArray,
    Normalisation,
    build_image_data,
)
from trainable.data.kinds import DataSetKind, find_kind, remember_sizes
from trainable.data.sources import Source, compute_source_key, download_original, find_source, read_source
from trainable.user_code import is_reference, resolve, source_hash

__all__ = ["DataError", "ImageData", "Split", "Splits", "check_source", "load_data", "split_data"]

_DRAWN = "drawn by this program"
_SPLIT_SEED = 20_091  # the same split for every trial of every study
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images (n, height, width, channels) and labels (n,) for one purpose, and how the images are normalised."""

    images: ImageArray
    labels: LabelArray
    normalisation: Normalisation = PUBLISHED


@dataclass(frozen=True)
class Splits:
    """The parts of a data set that a trial uses; validation may be empty."""

    train: Split
    validation: Split
    test: Split


def load_data(
    dataset: str, folder: Path | None = None, cache: Path | None = None, image_size: int = IMAGE_SHAPE[0]
) -> ImageData:
    """The whole data set in memory: drawn, made by a function of the user's, from `folder`, else from the cache or torchvision's download.

    Without a folder the cache gives the original files if they were downloaded before, else the data set of this name that was used
    last. `cache` is the user's cache folder by default; images of the user's own are made square of `image_size` pixels.
    Errors: DataError, UserCodeError.
    """
    data = _load(dataset, folder, cache or default_cache(), image_size)
    remember_sizes(dataset, len(data.train_labels), len(data.test_labels))
    return data


def check_source(dataset: str, folder: Path | None = None, cache: Path | None = None) -> str:
    """What load_data would use, in words, found without decoding or downloading. Errors: DataError, as far as seen."""
    if is_reference(dataset):
        resolve(dataset)
        return _words_of_function(dataset, folder)
    kind = find_kind(dataset)
    if kind.draw is not None:
        return _DRAWN
    cache = cache or default_cache()
    if folder is not None:
        return str(find_source(dataset, folder))
    if kind.download is None:
        raise DataError(f"dataset={dataset}: name the folder that holds the images with --data DIR")
    try:
        return str(find_source(dataset, cache / _downloaded(kind)))
    except DataError:  # never downloaded, or not completely
        latest = find_latest_entry(cache, dataset)
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
    batch_size, num_left = config.as_trained.batch_size, num_train - config.validation_size
    if num_left < batch_size:
        raise ValueError(
            f"{num_train} training images less validation_size={config.validation_size} leave no full batch of "
            f"batch_size={batch_size}: lower one of the two"
        )
    if config.branch_images is not None and config.branch_images > num_left:
        raise ValueError(f"branch_images={config.branch_images}, but an epoch has only {num_left} training images")
    order = _balanced_order(data.train_labels)
    train, test = (
        Split(*part, data.normalisation)
        for part in ((data.train_images, data.train_labels), (data.test_images, data.test_labels))
    )
    return Splits(
        train=_take(train, order[config.validation_size : num_train]),
        validation=_take(train, order[: config.validation_size]),
        test=_take(test, _balanced_order(data.test_labels)[:num_test]),
    )


def _load(dataset: str, folder: Path | None, cache: Path, image_size: int) -> ImageData:
    if is_reference(dataset):
        return call_function(dataset, folder, _words_of_function(dataset, folder))
    kind = find_kind(dataset)
    if kind.draw is not None:
        return build_image_data(dataset, *kind.draw(), kind.class_names, _DRAWN)
    if folder is not None:
        return _load_source(find_source(dataset, folder, image_size), cache)
    if kind.download is None:
        raise DataError(check_source(dataset))
    return _load_downloaded(kind, cache) or _load_latest(kind, cache) or _download(kind, cache)


def _words_of_function(dataset: str, folder: Path | None) -> str:
    return f"{dataset} (source {source_hash(dataset)}){f' in {folder}' if folder is not None else ''}"


def _downloaded(kind: DataSetKind) -> str:
    """The folder of a download, below the cache."""
    assert kind.original is not None
    return kind.original.folder


def _load_source(source: Source, cache: Path) -> ImageData:
    if source.layout == "original":
        return read_source(source)  # as quick to read as a cache entry, and checked on the way
    entry = entry_path(cache, source.dataset, compute_source_key(source))
    data = read_entry(entry, source.dataset)
    if data is None:
        data = read_source(source)
        write_entry(entry, data)
    return data


def _load_downloaded(kind: DataSetKind, cache: Path) -> ImageData | None:
    if not (cache / _downloaded(kind)).is_dir():
        return None
    try:
        return read_source(find_source(kind.name, cache / _downloaded(kind)))
    except DataError as error:
        _log.warning("%s; downloading it again", error)
        return _download(kind, cache)


def _load_latest(kind: DataSetKind, cache: Path) -> ImageData | None:
    latest = find_latest_entry(cache, kind.name)
    return read_entry(latest, kind.name) if latest else None


def _download(kind: DataSetKind, cache: Path) -> ImageData:
    download_original(kind, cache)
    return read_source(find_source(kind.name, cache / _downloaded(kind)))


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


def _take(part: Split, indices: npt.NDArray[np.int64]) -> Split:
    if len(indices) == len(part.labels):
        return part
    chosen = np.sort(indices)
    return Split(part.images[chosen], part.labels[chosen], part.normalisation)
