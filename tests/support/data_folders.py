"""Data folders as users have them, written from made images: Parquet shards, class folders, original batch files."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainable.data import batch_files
from trainable.data.image_data import CLASS_NAMES, ImageArray

HUGGING_FACE_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
GREY = np.random.default_rng(3).integers(0, 256, (50, 28, 28), dtype=np.uint8)
LABELS = np.arange(50) % 10


def make_images(num_images: int, seed: int = 0) -> ImageArray:
    """Noise (num_images, 32, 32, 3): no two images are alike."""
    return np.random.default_rng(seed).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)


def encode_png(image: ImageArray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, images: Sequence[bytes | None], labels: Sequence[int | None] | pa.Array) -> None:
    """One Parquet shard in the layout of the shared copy: `img` a struct of bytes and path, `label` a number."""
    column = pa.array([{"bytes": image, "path": None} for image in images], HUGGING_FACE_IMAGE)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"img": column, "label": labels}), path)


def write_shards(folder: Path, num_train: int = 40, num_test: int = 20) -> None:
    """A complete small data set; image i has label i mod 10, its pixels are make_images(num, seed 1 or 2)."""
    for part, num_images, seed in (("train", num_train, 1), ("test", num_test, 2)):
        images = [encode_png(image) for image in make_images(num_images, seed)]
        write_shard(folder / f"{part}-00000-of-00001.parquet", images, [i % 10 for i in range(num_images)])


def write_class_folders(folder: Path, num_train: int = 40, num_test: int = 20) -> None:
    """The data set of write_shards as PNG files, each in the folder of its class."""
    for part, num_images, seed in (("train", num_train, 1), ("test", num_test, 2)):
        for i, image in enumerate(make_images(num_images, seed)):
            path = folder / part / CLASS_NAMES[i % 10] / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(image))


def write_batch_files(folder: Path, num_train: int = 40, num_test: int = 20) -> tuple[dict[str, str], dict[str, str]]:
    """The data set of write_shards as original batch files; returns their MD5 checksums, of training and test."""
    folder.mkdir(parents=True)
    labels = [i % 10 for i in range(num_train)]
    images = make_images(num_train, 1)
    train, size = {}, num_train // 5
    for batch in range(5):
        part = slice(batch * size, (batch + 1) * size)
        train[f"data_batch_{batch + 1}"] = _write(folder / f"data_batch_{batch + 1}", images[part], labels[part])
    test = _write(folder / "test_batch", make_images(num_test, 2), [i % 10 for i in range(num_test)])
    return train, {"test_batch": test}


def publish_batch_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Write batch files, and let theirs be the published checksums: the real ones belong to 180 MB of real data."""
    train, test = write_batch_files(folder)
    monkeypatch.setattr(batch_files, "TRAIN_MD5", train)
    monkeypatch.setattr(batch_files, "TEST_MD5", test)


def _write(path: Path, images: ImageArray, labels: list[int]) -> str:
    path.write_bytes(pickle_batch(images, labels))
    return hashlib.md5(path.read_bytes()).hexdigest()


def pickle_batch(images: ImageArray, labels: list[int]) -> bytes:
    """What Python 2 pickled, which Python 3 cannot write: byte strings, and an array of unsigned bytes (n, 3072)."""
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).tobytes()
    shape = b"J" + struct.pack("<i", len(images)) + b"J" + struct.pack("<i", 3072) + b"\x86"
    kind = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + _string(b"|") + b"NNN" + 2 * (b"J" + struct.pack("<i", -1)) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + _string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89" + _string(rows) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + _string(b"data") + array + _string(b"labels") + numbers + b"u."


def _string(content: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(content)) + content


def idx(array: np.ndarray) -> bytes:
    """The idx format, written by its description: two zeros, the type 8, the number of axes, their lengths, the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, compressed: bool = False, name: Callable[[str], str] = str) -> None:
    """40 training and 10 test images in the form of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("train", slice(40)), ("t10k", slice(40, 50))):
        for kind, array in (("images-idx3", GREY[chosen]), ("labels-idx1", LABELS[chosen])):
            content = idx(array)
            path = folder / (name(f"{part}-{kind}-ubyte") + (".gz" if compressed else ""))
            path.write_bytes(gzip.compress(content) if compressed else content)
