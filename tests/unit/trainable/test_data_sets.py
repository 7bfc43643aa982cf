"""The known data sets besides CIFAR-10 in their original formats and as Parquet, images of the user's own, functions of theirs."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from tests.support.data_folders import (
    GREY,
    LABELS,
    encode_png,
    idx,
    make_images,
    pickle_batch,
    write_class_folders,
    write_idx,
)
from trainable.config import TrialConfig
from trainable.data import batch_files
from trainable.data.data_set import check_source, load_data, split_data
from trainable.data.image_data import PUBLISHED, DataError, ImageData, compute_normalisation
from trainable.data.kinds import check_dataset, list_kinds, sizes_of
from trainable.user_code import UserCodeError


def check_grey(data: ImageData) -> None:
    np.testing.assert_array_equal(data.train_images, GREY[:40, ..., None])
    np.testing.assert_array_equal(data.test_images, GREY[40:, ..., None])
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == (LABELS[:40].tolist(), LABELS[40:].tolist())


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_fashion_mnist_in_its_original_format(tmp_path: Path, compressed: bool, below: str) -> None:
    write_idx(tmp_path / below, compressed=compressed)
    data = load_data("fashion_mnist", tmp_path)
    check_grey(data)
    assert data.class_names[:2] == ("T-shirt/top", "trouser")
    assert data.source == check_source("fashion_mnist", tmp_path) == f"original idx files in {tmp_path / below}"


def test_own_images_in_idx_files_are_numbered(tmp_path: Path) -> None:
    write_idx(tmp_path, name=lambda name: name.replace("-idx", ".idx"))
    data = load_data("images", tmp_path)
    check_grey(data)
    assert (sizes_of("images"), sizes_of("fashion_mnist")) == ((40, 10), (60_000, 10_000)), "what was read is known"
    assert data.class_names == tuple("0123456789")


def test_fashion_mnist_as_parquet(tmp_path: Path) -> None:
    for part, chosen in (("train", slice(40)), ("test", slice(40, 50))):
        column = pa.array([{"bytes": encode_png(image), "path": None} for image in GREY[chosen]])
        (tmp_path / "fashion_mnist").mkdir(exist_ok=True)
        table = pa.table({"image": column, "label": LABELS[chosen]})
        pq.write_table(table, tmp_path / f"fashion_mnist/{part}-00000-of-00001.parquet")
    data = load_data("fashion_mnist", tmp_path, tmp_path / "cache")
    check_grey(data)
    assert load_data("fashion_mnist", tmp_path, tmp_path / "cache").fingerprint == data.fingerprint, "from the cache"
    with pytest.raises(DataError, match="28x28 pixels, 32x32 are needed"):
        load_data("cifar10", tmp_path / "fashion_mnist", tmp_path / "cache")


BAD_IDX: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an idx file of bytes (it begins with nothing)"),
    "another format": (b"PK\3\4" * 20, "not an idx file of bytes (it begins with 504b0304)"),
    "floats": (b"\0\0\x0d\3" + b"\0" * 40, "not an idx file of bytes"),
    "no sizes": (b"\0\0\x08\3\0\0", "ends within its header"),
    "huge": (b"\0\0\x08\3" + b"\xff" * 12, "more than this program reads"),
    "cut": (idx(GREY[:40])[:-1], "less than the 31,360 values of shape (40, 28, 28)"),
    "longer": (idx(GREY[:40]) + b"\0", "more than the 31,360 values"),
    "labels": (idx(LABELS[:40]), "an array of shape (40,), images (n, height, width) are needed"),
    "another number": (idx(GREY[:39]), "labels of shape (40,) for 39 images"),
    "another size": (idx(GREY[:40, :20]), "training images are of shape (20, 28, 1), test images (28, 28, 1)"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    write_idx(tmp_path)
    content, said = BAD_IDX[case]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data("fashion_mnist", tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_idx_files_are_named(tmp_path: Path) -> None:
    write_idx(tmp_path, compressed=True)
    file = tmp_path / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read"):
        load_data("fashion_mnist", tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is missing; needed are train-images"):
        check_source("fashion_mnist", tmp_path)


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.full(10, 11)))
    with pytest.raises(DataError, match=r"test label 11 is not in 0\.\.9"):
        load_data("fashion_mnist", tmp_path)


def test_svhn_in_its_original_format(tmp_path: Path) -> None:
    images, digits = make_images(30), np.array([10, *range(1, 10)] * 3, dtype=np.uint8)
    for part, chosen in (("train", slice(20)), ("test", slice(20, 30))):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images[chosen].transpose(1, 2, 3, 0), "y": digits[chosen, None]})
    data = load_data("svhn", tmp_path)
    np.testing.assert_array_equal(data.train_images, images[:20])
    assert data.test_labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "10 is the digit 0"
    assert data.source == f"original .mat files in {tmp_path}"
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200)
    with pytest.raises(DataError, match=r"test_32x32\.mat: (not a readable MATLAB file|holds no)"):
        load_data("svhn", tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"X": images[:10].transpose(1, 2, 3, 0), "y": np.arange(5)})
    with pytest.raises(DataError, match="y is not a digit, 1 to 10, for each of the 10 images"):
        load_data("svhn", tmp_path)


def test_cifar100_in_its_original_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    found = {}
    for name, seed, labels in (("train", 1, [0, 99, 50, 7]), ("test", 2, [1, 2, 3, 98])):
        content = pickle_batch(make_images(4, seed), labels).replace(b"T\x06\0\0\0labels", b"T\x0b\0\0\0fine_labels")
        (folder / name).write_bytes(content)
        found[name] = hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match=r"train: MD5 [0-9a-f]+ is not the published 16019d7e"):
        load_data("cifar100", tmp_path)
    monkeypatch.setattr(batch_files, "CIFAR100_MD5", found)
    data = load_data("cifar100", tmp_path)
    np.testing.assert_array_equal(data.train_images, make_images(4, 1))
    assert (len(data.class_names), data.train_labels.tolist()) == (100, [0, 99, 50, 7])
    assert (data.class_names[0], data.class_names[99]) == ("apple", "worm")


def test_own_parquet_with_declared_names_and_fine_labels_of_cifar100(tmp_path: Path) -> None:
    names = ["cat", "dog", "elk"]
    declared = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    for part in ("train", "test"):
        column = pa.array([{"bytes": encode_png(image), "path": None} for image in make_images(3)])
        table = pa.table({"img": column, "label": [0, 1, 2], "fine_label": [7, 8, 99]})
        table = table.replace_schema_metadata({b"huggingface": json.dumps(declared).encode()})
        pq.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    assert load_data("images", tmp_path, tmp_path / "cache").class_names == tuple(names)
    assert load_data("cifar100", tmp_path, tmp_path / "cache").train_labels.tolist() == [7, 8, 99]


def encode(image: np.ndarray, mode: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write_own(folder: Path, mode: str = "RGB") -> np.ndarray:
    """Class folders of two classes with images of several sizes; returns one, 40 x 64, whose halves have a colour each."""
    halves = np.zeros((40, 64, 3), dtype=np.uint8)
    halves[:, :32], halves[:, 32:] = (200, 40, 40), (40, 40, 200)
    small = np.full((16, 16, 3), 90, dtype=np.uint8)
    for part in ("train", "test"):
        for name in ("left", "right"):
            (folder / part / name).mkdir(parents=True)
        (folder / part / "left/a.png").write_bytes(encode(halves, mode))
        (folder / part / "right/b.jpg").write_bytes(encode(small, "L" if mode == "L" else "RGB", "JPEG"))
    return halves


def test_own_images_of_any_size_are_made_square_by_the_stated_rule(tmp_path: Path) -> None:
    halves = write_own(tmp_path / "own")
    data = load_data("images", tmp_path / "own", tmp_path / "cache", image_size=20)
    assert (data.train_images.shape, data.class_names) == ((2, 20, 20, 3), ("left", "right"))
    middle = Image.fromarray(halves[:, 12:52])  # of the longer side the middle
    expected = np.asarray(middle.resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.train_images[0], expected)
    assert (data.train_images[1] == 90).all()
    assert load_data("images", tmp_path / "own", tmp_path / "cache").train_images.shape == (2, 32, 32, 3), (
        "no cached size"
    )


def test_own_images_without_a_colour_have_one_channel(tmp_path: Path) -> None:
    write_own(tmp_path / "own", "L")
    data = load_data("images", tmp_path / "own", tmp_path / "cache")
    assert data.train_images.shape == (2, 32, 32, 1)
    assert len(data.normalisation.mean) == 1


def test_images_of_other_sets_are_sent_to_the_own_ones(tmp_path: Path) -> None:
    write_own(tmp_path)
    with pytest.raises(
        DataError, match="2 class folders, 10 are needed for CIFAR-10; images of your own are dataset=images"
    ):
        check_source("cifar10", tmp_path)
    with pytest.raises(DataError, match="dataset=images: name the folder that holds the images with --data DIR"):
        check_source("images")


def test_normalisation_is_published_or_that_of_the_training_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "cifar")
    published = load_data("cifar10", tmp_path / "cifar", tmp_path / "cache")
    assert published.normalisation == PUBLISHED
    own = load_data("images", tmp_path / "cifar", tmp_path / "cache")
    values = own.train_images.reshape(-1, 3) / 255
    assert own.normalisation.mean == pytest.approx(values.mean(axis=0), abs=6e-5)
    assert own.normalisation.std == pytest.approx(values.std(axis=0), abs=6e-5)
    assert split_data(own, TrialConfig(batch_size=4)).train.normalisation == own.normalisation
    flat = compute_normalisation(np.full((3, 8, 8, 1), 51, dtype=np.uint8))
    assert (flat.mean, flat.std) == ((0.2,), (round(1 / 255, 4),)), "never divided by nothing"


FUNCTIONS = """
import numpy as np
def make(folder=None):
    images = np.arange(12 * 8 * 10).reshape(12, 8, 10, 1).astype(np.uint8)
    return (images[:8], [0, 1] * 4), (images[8:], [1, 0, 1, 0]), ["even", str(folder)]
def breaks():
    return 1 / 0
def wrong():
    return np.zeros(3), 2
def floats():
    return (np.zeros((4, 8, 8, 3)), [0, 1, 0, 1]), (np.zeros((4, 8, 8, 3)), [0, 1, 0, 1]), ["a", "b"]
def beyond():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    return (images, [0, 1, 2, 1]), (images, [0, 1, 0, 1]), ["a", "b"]
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    """A module of the user's with functions that return data."""
    (tmp_path / f"own_data_{tmp_path.name}.py").write_text(FUNCTIONS)
    check_dataset(f"own_data_{tmp_path.name}:make", [tmp_path])
    return f"own_data_{tmp_path.name}"


def test_a_function_of_the_users_makes_the_data(tmp_path: Path, module: str) -> None:
    data = load_data(f"{module}:make", tmp_path)
    assert (data.train_images.shape, data.test_images.shape) == ((8, 8, 10, 1), (4, 8, 10, 1))
    assert data.train_labels.dtype == np.int64
    assert data.class_names == ("even", str(tmp_path)), "it has a parameter `folder`"
    assert data.source.startswith(f"{module}:make (source ")
    assert load_data(f"{module}:make").fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("breaks", r"own_data_.*:7 \(return 1 / 0\): ZeroDivisionError"),
        ("wrong", r"does not return \(train_images, train_labels\), \(test_images, test_labels\), class_names"),
        ("floats", r"training images are float64 of shape \(4, 8, 8, 3\); uint8 \(n, height, width, channels\)"),
        ("beyond", r"training label 2 is not in 0\.\.1"),
        ("maek", "has no function maek; did you mean make"),
    ],
)
def test_a_function_that_does_not_is_refused_in_one_line(module: str, name: str, said: str) -> None:
    with pytest.raises((DataError, UserCodeError), match=said) as caught:
        load_data(f"{module}:{name}")
    assert "\n" not in str(caught.value)


def test_every_known_data_set_says_what_it_is() -> None:
    assert list(list_kinds()) == ["cifar10", "cifar100", "fashion_mnist", "images", "svhn", "synthetic"]
    for kind in list_kinds().values():
        assert kind.draw is not None or kind.original is not None
        assert (kind.download is None) == (kind.name in ("images", "synthetic"))
        if kind.shape is not None:
            assert kind.class_names
            assert kind.num_train
