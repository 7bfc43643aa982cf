"""CIFAR-10 and CIFAR-100 as first published: pickled batch files, accepted only with the published MD5 checksums."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainable.data.image_data import DataError, Images

TRAIN_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
TEST_MD5 = {"test_batch": "40351d587109b95175f43aff81a1287e"}
CIFAR100_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}

_ARRAY_CONSTRUCTOR = np.empty(0).__reduce__()[0]  # private in NumPy, and what a pickled array calls
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY_CONSTRUCTOR,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY_CONSTRUCTOR,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_cifar10(paths: Sequence[Path]) -> Images:
    """The images (n, 32, 32, 3) and labels of batch files of CIFAR-10. Errors: DataError naming the file."""
    return _read(paths, {**TRAIN_MD5, **TEST_MD5}, b"labels")


def read_cifar100(paths: Sequence[Path]) -> Images:
    """The images (n, 32, 32, 3) and fine labels of the files of CIFAR-100. Errors: DataError naming the file."""
    return _read(paths, CIFAR100_MD5, b"fine_labels")


def _read(paths: Sequence[Path], checksums: Mapping[str, str], key: bytes) -> Images:
    return read_batch_files(paths[0].parent, {path.name: checksums[path.name] for path in paths}, key)


def read_batch_files(folder: Path, checksums: Mapping[str, str], key: bytes = b"labels") -> Images:
    """The images (n, 32, 32, 3) and labels of the named files, in their order. Errors: DataError naming the file."""
    batches = [_read_batch(folder / name, checksum, key) for name, checksum in checksums.items()]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_batch(path: Path, checksum: str, key: bytes) -> Images:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the batch files must be complete") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != checksum:
        raise DataError(
            f"{path}: MD5 {found} is not the published {checksum}: the file is damaged or altered, get it again"
        )
    batch = _ArrayUnpickler(content).read(path)
    try:
        planes = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[key], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: holds no batch of images and labels ({error!r})") from error
    if labels.shape != (len(planes),):
        raise DataError(f"{path}: {len(planes)} images but labels of shape {labels.shape}")
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numbers, byte strings, lists, dictionaries and NumPy arrays, and refuses to call anything else."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}") from None

    def read(self, path: Path) -> dict[Any, Any]:
        try:
            content = self.load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(f"{path}: not a batch file ({error})") from error
        if not isinstance(content, dict):
            raise DataError(f"{path}: not a batch file (holds a {type(content).__name__})")
        return content
