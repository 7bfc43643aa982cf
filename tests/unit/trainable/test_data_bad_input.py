"""Every way in which a data folder can be wrong: one line that names the place, nothing decoded before it must be, nothing kept."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.support.data_folders import (
    encode_png,
    make_images,
    pickle_batch,
    publish_batch_files,
    write_batch_files,
    write_class_folders,
    write_shard,
    write_shards,
)
from trainable.data.batch_files import TRAIN_MD5, read_batch_files
from trainable.data.data_set import DataError, check_source, load_data

Spoil = Callable[[Path], object]
Case = tuple[Spoil, str]  # how to spoil a good data folder, and what the message then says


def replace_shard(folder: Path, images: Sequence[bytes | None] = (), labels: object = None) -> None:
    good = [encode_png(image) for image in make_images(20, 2)]
    write_shard(folder / "test-00000-of-00001.parquet", images or good, labels or [0] * 20)


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def encoded(shape: tuple[int, ...], mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(shape, dtype=np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = encode_png(make_images(1)[0])
HUGE_JPEG = io.BytesIO()
Image.new("RGB", (32, 32)).save(HUGE_JPEG, "JPEG")
SIZE_AT = HUGE_JPEG.getvalue().index(b"\xff\xc0") + 5
BOMB = HUGE_JPEG.getvalue()[:SIZE_AT] + b"\xea\x60\xea\x60" + HUGE_JPEG.getvalue()[SIZE_AT + 4 :]

SPOILED_SHARDS: dict[str, Case] = {
    "no test shard": (lambda p: (p / "test-00000-of-00001.parquet").unlink(), "no test-*.parquet"),
    "no train shard": (lambda p: (p / "train-00000-of-00001.parquet").unlink(), "no train-*.parquet"),
    "missing shard": (
        lambda p: (p / "train-00000-of-00001.parquet").rename(p / "train-00001-of-00003.parquet"),
        "train-00000-of-00003.parquet: this shard is missing; all 3",
    ),
    "truncated": (
        lambda p: (p / "test-00000-of-00001.parquet").write_bytes((p / "test-00000-of-00001.parquet").read_bytes()[:-99]),
        "test-00000-of-00001.parquet: not a readable Parquet file",
    ),
    "empty file": (lambda p: (p / "test-00000-of-00001.parquet").write_bytes(b""), "not a readable Parquet file"),
    "no image column": (
        lambda p: pq.write_table(pa.table({"x": [1], "label": [1]}), p / "test-0.parquet"),
        "test-0.parquet: no column img or image; columns are x, label",
    ),
    "no label column": (
        lambda p: pq.write_table(pa.table({"img": [b"x"]}), p / "test-0.parquet"), "no column label",
    ),
    "image column of numbers": (
        lambda p: pq.write_table(pa.table({"img": [1], "label": [1]}), p / "test-0.parquet"), "column img holds int64",
    ),
    "label column of text": (
        lambda p: pq.write_table(pa.table({"img": [b"x"], "label": ["cat"]}), p / "test-0.parquet"), "column label holds string",
    ),
    "shard is a folder": (lambda p: (p / "test-0.parquet").mkdir(), "test-0.parquet: not a readable Parquet file"),
}  # fmt: skip

SPOILED_ROWS: dict[str, Case] = {
    "no rows": (lambda p: write_shard(p / "test-00000-of-00001.parquet", [], pa.array([], pa.int64())), "holds no rows"),
    "negative label": (lambda p: replace_shard(p, labels=[0] * 7 + [-1] * 13), "row 7: label -1 is not in 0..9"),
    "label too large": (lambda p: replace_shard(p, labels=[0] * 3 + [10] * 17), "row 3: label 10 is not in 0..9"),
    "huge label": (
        lambda p: replace_shard(p, labels=pa.array([2**64 - 1] * 20, pa.uint64())), "row 0: label 18446744073709551615",
    ),
    "null label": (lambda p: replace_shard(p, labels=[0] * 19 + [None]), "row 19: label is null"),
    "null image": (lambda p: replace_shard(p, [GOOD, None] + [GOOD] * 18), "row 1: image is null"),
    "no image at all": (lambda p: replace_shard(p, [b"hello"] * 20), "row 0: image does not decode"),
    "truncated image": (lambda p: replace_shard(p, [GOOD] * 4 + [GOOD[:-900]] * 16), "row 4: image does not decode"),
    "wrong size": (lambda p: replace_shard(p, [encoded((28, 30, 3))] * 20), "row 0: image is 30x28 pixels, 32x32 are needed"),
    "wrong mode": (lambda p: replace_shard(p, [encoded((32, 32, 3), "RGBA")] * 20), "row 0: image has mode RGBA"),
    "claims to be huge": (lambda p: replace_shard(p, [BOMB] * 20), "row 0: image does not decode"),
    "damaged pages": (
        lambda p: (p / "test-00000-of-00001.parquet").write_bytes(
            (raw := (p / "test-00000-of-00001.parquet").read_bytes())[:4] + b"\xff" * 2000 + raw[2004:]
        ),
        "test-00000-of-00001.parquet: ",
    ),
}  # fmt: skip

SPOILED_CLASS_FOLDERS: dict[str, Case] = {
    "no test folder": (lambda p: (p / "test").rename(p / "held_out"), "test: missing; class folders need"),
    "class not tested": (lambda p: (p / "test/cat").rename(p / "cat"), "train/cat: a class that test/ does not have"),
    "class not trained": (lambda p: (p / "test/kitten").mkdir(), "test/kitten: a class that train/ does not have"),
    "nine classes": (
        lambda p: [(p / part / "cat").rename(p / f"{part}-cat") for part in ("train", "test")],
        "train: 9 class folders, 10 are needed",
    ),
}  # fmt: skip

SPOILED_IMAGE_FILES: dict[str, Case] = {
    "no images": (
        lambda p: empty(p / "test/dog"), "test/dog: no .png or .jpg image in it",
    ),
    "not an image": (lambda p: (p / "train/dog/x.jpg").write_bytes(b"GIF89a"), "train/dog/x.jpg: image does not decode"),
    "empty image": (lambda p: (p / "train/dog/x.jpg").write_bytes(b""), "train/dog/x.jpg: image does not decode"),
    "wrong size": (
        lambda p: (p / "train/dog/x.png").write_bytes(encoded((64, 32, 3))), "train/dog/x.png: image is 32x64 pixels",
    ),
    "folder for an image": (lambda p: (p / "train/dog/x.png").mkdir(), "train/dog/x.png: cannot be read"),
}  # fmt: skip


def expect_one_line(error: pytest.ExceptionInfo[DataError], message: str) -> None:
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("spoil", "message"), SPOILED_SHARDS.values(), ids=SPOILED_SHARDS)
def test_bad_shards_are_seen_without_decoding(tmp_path: Path, spoil: Spoil, message: str) -> None:
    write_shards(tmp_path)
    spoil(tmp_path)
    for use in (check_source, load_data):
        with pytest.raises(DataError) as error:
            use("cifar10", tmp_path, tmp_path / "cache")
        expect_one_line(error, message)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("spoil", "message"), SPOILED_ROWS.values(), ids=SPOILED_ROWS)
def test_bad_rows(tmp_path: Path, spoil: Spoil, message: str) -> None:
    write_shards(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError) as error:
        load_data("cifar10", tmp_path, tmp_path / "cache")
    expect_one_line(error, message)
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("spoil", "message"), SPOILED_CLASS_FOLDERS.values(), ids=SPOILED_CLASS_FOLDERS)
def test_bad_class_folders_are_seen_without_decoding(tmp_path: Path, spoil: Spoil, message: str) -> None:
    write_class_folders(tmp_path)
    spoil(tmp_path)
    for use in (check_source, load_data):
        with pytest.raises(DataError) as error:
            use("cifar10", tmp_path, tmp_path / "cache")
        expect_one_line(error, message)


@pytest.mark.parametrize(("spoil", "message"), SPOILED_IMAGE_FILES.values(), ids=SPOILED_IMAGE_FILES)
def test_bad_image_files(tmp_path: Path, spoil: Spoil, message: str) -> None:
    write_class_folders(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError) as error:
        load_data("cifar10", tmp_path, tmp_path / "cache")
    expect_one_line(error, message)


def test_folder_missing_or_without_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("none", "no such folder"),
        ("file", "is not a folder"),
        ("empty", "no data set in it; needed"),
    ):
        with pytest.raises(DataError, match=message) as error:
            check_source("cifar10", tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


def test_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="dataset='mnist' is not known: it is one of cifar10, cifar100, fashion_mnist, images"
    ):
        load_data("mnist", tmp_path)


# --- bad batch files ----------------------------------------------------------------------------------------------------


def test_batch_files_must_be_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_batch_files(monkeypatch, tmp_path / "batches")
    (tmp_path / "batches/data_batch_3").unlink()
    with pytest.raises(DataError, match="batches: data_batch_3 is missing"):
        check_source("cifar10", tmp_path / "batches")
    with pytest.raises(DataError, match="batches/data_batch_3: cannot be read"):
        read_batch_files(tmp_path / "batches", TRAIN_MD5 | {"data_batch_1": md5(tmp_path / "batches/data_batch_1"),
                                                            "data_batch_2": md5(tmp_path / "batches/data_batch_2")})  # fmt: skip


def test_batch_files_without_the_published_checksum_are_refused(tmp_path: Path) -> None:
    write_batch_files(tmp_path / "cifar-10-batches-py")
    with pytest.raises(
        DataError, match=f"data_batch_1: MD5 [0-9a-f]+ is not the published {TRAIN_MD5['data_batch_1']}"
    ):
        load_data("cifar10", tmp_path)


def test_one_damaged_byte_of_a_batch_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_batch_files(monkeypatch, tmp_path / "batches")
    path = tmp_path / "batches/test_batch"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="test_batch: MD5"):
        load_data("cifar10", tmp_path / "batches")


def test_code_in_batch_files_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "made"),)

    content = pickle.dumps({b"data": Hostile()})
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(DataError, match="refused to load posix"):
        read_batch_files(tmp_path, {"b": hashlib.md5(content).hexdigest()})
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({1: 2}), "no batch of images and labels"),
        (pickle_batch(make_images(5), [0] * 4), "5 images but labels of shape"),
        (pickle_batch(make_images(5), [0] * 5)[:-40], "not a batch file"),
        (b"", "not a batch file"),
        (b"hello", "not a batch file"),
    ],
    ids=["list", "other dictionary", "too few labels", "truncated", "empty", "text"],
)
def test_batch_files_that_match_their_checksum_but_hold_something_else(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_batch_files(tmp_path, {"b": hashlib.md5(content).hexdigest()})


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()
