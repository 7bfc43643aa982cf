"""Every layout of a data folder, read in full; the real images where a copy of them is at hand."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.data_folders import (
    encode_png,
    make_images,
    publish_batch_files,
    write_class_folders,
    write_shard,
    write_shards,
)
from trainable.data.data_set import ImageData, check_source, load_data
from trainable.data.encoded_images import decode_image
from trainable.data.image_data import CLASS_NAMES, build_image_data

REAL_DATA = Path(__file__).parents[3].parent / "shared/data/cifar10"


def check_content(data: ImageData, num_train: int = 40, num_test: int = 20) -> None:
    """The content is that of data_folders, in its order."""
    np.testing.assert_array_equal(data.train_images, make_images(num_train, 1))
    np.testing.assert_array_equal(data.test_images, make_images(num_test, 2))
    assert data.train_labels.tolist() == [i % 10 for i in range(num_train)]
    assert data.test_labels.tolist() == [i % 10 for i in range(num_test)]
    assert data.train_labels.dtype == np.int64
    assert data.class_names == CLASS_NAMES


@pytest.mark.parametrize("subfolder", [".", "data", "plain_text"])
def test_shards(tmp_path: Path, subfolder: str) -> None:
    write_shards(tmp_path / subfolder)
    assert "Parquet" in check_source("cifar10", tmp_path)
    data = load_data("cifar10", tmp_path, tmp_path / "cache")
    check_content(data)
    assert data.source == check_source("cifar10", tmp_path)
    assert str(tmp_path) in data.source


def test_several_shards_are_read_in_order_whatever_their_types(tmp_path: Path) -> None:
    images, labels = [encode_png(image) for image in make_images(40, 1)], [i % 10 for i in range(40)]
    write_shard(tmp_path / "train-00000-of-00002.parquet", images[:25], pa.array(labels[:25], pa.uint8()))
    second = pa.table({"image": pa.array(images[25:], pa.large_binary()), "label": pa.array(labels[25:], pa.int16())})
    pq.write_table(second, tmp_path / "train-00001-of-00002.parquet")
    write_shard(tmp_path / "test-0.parquet", [encode_png(image) for image in make_images(20, 2)], labels[:20])
    check_content(load_data("cifar10", tmp_path, tmp_path / "cache"))


def test_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    assert "class folders" in check_source("cifar10", tmp_path)

    data = load_data("cifar10", tmp_path, tmp_path / "cache")

    by_class = np.argsort([i % 10 for i in range(40)], kind="stable")
    np.testing.assert_array_equal(data.train_images, make_images(40, 1)[by_class])
    assert data.train_labels.tolist() == sorted(i % 10 for i in range(40))
    np.testing.assert_array_equal(data.test_images, make_images(20, 2)[np.argsort([i % 10 for i in range(20)], kind="stable")])  # fmt: skip
    assert data.class_names == CLASS_NAMES


def test_classes_of_class_folders_are_in_alphabetical_order(tmp_path: Path) -> None:
    image = encode_png(make_images(1)[0])
    for name in "jihgfedcba":
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.PNG").write_bytes(image)
    data = load_data("cifar10", tmp_path, tmp_path / "cache")
    assert data.class_names == tuple("abcdefghij")
    assert data.test_labels.tolist() == list(range(10))


@pytest.mark.parametrize("inside", [True, False], ids=["the folder itself", "its parent"])
def test_original_batch_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    publish_batch_files(monkeypatch, folder)
    data = load_data("cifar10", folder if inside else tmp_path, tmp_path / "cache")
    check_content(data)
    assert data.source == f"original batch files in {folder}"
    assert not (tmp_path / "cache").exists()


def test_fingerprint_is_of_the_content_not_of_its_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "shards")
    publish_batch_files(monkeypatch, tmp_path / "batches")
    shards = load_data("cifar10", tmp_path / "shards", tmp_path / "cache")
    assert load_data("cifar10", tmp_path / "batches", tmp_path / "cache").fingerprint == shards.fingerprint
    assert re.fullmatch("[0-9a-f]{64}", shards.fingerprint)


def test_fingerprint_sees_every_change() -> None:
    images, labels = make_images(4), np.arange(4)
    changed = images.copy()
    changed[3, 31, 31, 2] ^= 1

    def fingerprint(train: np.ndarray, names: tuple[str, ...] = CLASS_NAMES, labels: np.ndarray = labels) -> str:
        return build_image_data("cifar10", (train, labels), (images, labels.copy()), names, "here").fingerprint

    found = {
        fingerprint(images), fingerprint(changed), fingerprint(images[::-1]), fingerprint(images, CLASS_NAMES[::-1]),
        fingerprint(images, labels=labels[::-1].copy()),
    }  # fmt: skip
    assert len(found) == 5
    assert fingerprint(images.copy()) in found


def test_arrays_are_read_only(tmp_path: Path) -> None:
    write_shards(tmp_path)
    for _ in range(2):  # decoded, then from the cache
        data = load_data("cifar10", tmp_path, tmp_path / "cache")
        for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
            assert not array.flags.writeable


def test_jpeg_gray_and_palette_images_decode_like_pillow(tmp_path: Path) -> None:
    image = Image.fromarray(make_images(1)[0])
    for mode, kind in (("RGB", "JPEG"), ("L", "PNG"), ("L", "JPEG"), ("P", "PNG")):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind)
        expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
        np.testing.assert_array_equal(decode_image(buffer.getvalue(), "here"), expected)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no shared copy of CIFAR-10 beside the repository")
def test_real_images(tmp_path: Path) -> None:
    data = load_data("cifar10", REAL_DATA, tmp_path)
    assert np.bincount(data.train_labels).tolist() == [5000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    rows = pq.read_table(next(REAL_DATA.glob("test-*.parquet")))["img"].to_pylist()
    for row in range(0, 10_000, 97):
        assert rows[row]["path"].startswith(data.class_names[data.test_labels[row]] + "/")
        decoded = np.asarray(Image.open(io.BytesIO(rows[row]["bytes"])))
        np.testing.assert_array_equal(data.test_images[row], decoded)
    # Published means of the training set; the copy's JPEG compression moves them by less than this.
    np.testing.assert_allclose(data.train_images.mean(axis=(0, 1, 2)) / 255, (0.4914, 0.4822, 0.4465), atol=2e-3)
    again = load_data("cifar10", REAL_DATA, tmp_path)
    assert again.fingerprint == data.fingerprint


def test_naming_a_source_needs_no_torch(tmp_path: Path) -> None:
    write_shards(tmp_path)
    code = "import sys; from trainable.data.data_set import check_source; from pathlib import Path\n"
    code += f"print(check_source('cifar10', Path({str(tmp_path)!r})), 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert output == f"Parquet shards in {tmp_path} False\n"
