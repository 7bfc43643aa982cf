"""The idx format of MNIST and its kin: arrays of bytes with their shape before them, with or without gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from trainable.data.image_data import DataError, Images
from trainable.errors import first_line

_UNSIGNED_BYTE = 8
_MOST_BYTES = 2**32


def names_alike(name: str) -> tuple[str, ...]:
    """The names that a file may have: as it is or compressed, with a dash or, as some unpack it, a dot."""
    dotted = name.replace("-idx", ".idx")
    return (name, f"{name}.gz", dotted, f"{dotted}.gz")


def read_idx_part(paths: tuple[Path, ...]) -> Images:
    """A file of images (n, height, width[, channels]) and one of labels (n,). Errors: DataError naming the file."""
    images, labels = (_read(path) for path in paths)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"{paths[0]}: an array of shape {images.shape}, images (n, height, width) are needed")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{paths[1]}: labels of shape {labels.shape} for {len(images)} images")
    return images, labels.astype(np.int64)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_array(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error


def _read_array(file: IO[bytes] | gzip.GzipFile, path: Path) -> npt.NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or not 1 <= magic[3] <= 4:
        raise DataError(f"{path}: not an idx file of bytes (it begins with {magic.hex() or 'nothing'})")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: ends within its header")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    expected = math.prod(shape)
    if expected > _MOST_BYTES:
        raise DataError(f"{path}: says that it holds {expected:,} values, more than this program reads")
    content = file.read(expected + 1)
    if len(content) != expected:
        raise DataError(
            f"{path}: {'more than' if len(content) > expected else 'less than'} the {expected:,} values of shape {shape}"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
