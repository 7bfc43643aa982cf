"""Decoded data sets kept on disk, one file each, so that images are decoded once.

An entry is an uncompressed .npz without pickles. Its content is hashed again when it is read (0.1 s for CIFAR-10), so a
damaged entry is noticed, said and made again.
"""

from __future__ import annotations

import io
import logging
import os
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np

from trainable.data.image_data import DataError, ImageData, build_image_data
from trainable.files import write_atomically

_FORMAT = "v1"
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile)
_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """The user's cache folder for this project."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "training-dynamics-study"


def read_entry(path: Path, dataset: str) -> ImageData | None:
    """The data set of this name of an entry, marked as used just now; None where there is none, or only a damaged one."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            train = (content["train_images"], content["train_labels"])
            test = (content["test_images"], content["test_labels"])
            names = [str(name) for name in content["class_names"]]
            expected, source = str(content["fingerprint"]), str(content["source"])
        data = build_image_data(dataset, train, test, names, source)
        if data.fingerprint != expected:
            raise DataError("its content has changed")
    except _DAMAGED as error:
        _log.warning("%s: damaged cache entry (%s), not used", path, error)
        return None
    _mark_as_used(path)
    return data


def read_entry_source(path: Path) -> str:
    """Where the data set of an entry came from, in words, without reading the images; '' for a damaged entry."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return str(content["source"])
    except _DAMAGED:
        return ""


def write_entry(path: Path, data: ImageData) -> None:
    """Keep a data set; readers see the whole entry or none. A cache that cannot be written is only warned of."""
    content = io.BytesIO()
    np.savez(
        content,
        train_images=data.train_images, train_labels=data.train_labels,
        test_images=data.test_images, test_labels=data.test_labels,
        class_names=np.array(data.class_names), fingerprint=np.array(data.fingerprint), source=np.array(data.source),
    )  # fmt: skip
    try:
        write_atomically(path, content.getbuffer())
        _mark_as_used(path)
    except OSError as error:
        _log.warning("%s: decoded images not kept (%s): the next start decodes them again", path, error)


def entry_path(cache: Path, dataset: str, source_key: str) -> Path:
    """The file that holds the data set of a source."""
    return _folder(cache) / f"{_prefix(dataset)}{source_key}.npz"


def find_latest_entry(cache: Path, dataset: str) -> Path | None:
    """The entry of a data set that was used last, if any."""
    key = "[0-9a-f]" * 32
    entries = [(path.stat().st_mtime_ns, path) for path in _folder(cache).glob(f"{_prefix(dataset)}{key}.npz")]
    return max(entries)[1] if entries else None


def _prefix(dataset: str) -> str:
    """Nothing for CIFAR-10, which was the only one for long."""
    return "" if dataset == "cifar10" else f"{dataset}-"


def _folder(cache: Path) -> Path:
    return cache / f"decoded-{_FORMAT}"


def _mark_as_used(path: Path) -> None:
    now = time.time_ns()  # finer than the clock that the file system would use by itself
    try:
        os.utime(path, ns=(now, now))
    except OSError:  # a cache that we may only read
        _log.debug("%s: time of use not kept", path)
