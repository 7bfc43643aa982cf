"""SVHN, cropped digits, without the extra images."""

from __future__ import annotations

from pathlib import Path

from trainable.data.image_data import IMAGE_SHAPE
from trainable.data.kinds import DataSetKind, Original
from trainable.data.mat_files import read_mat_file


def _download(root: Path) -> object:
    from torchvision.datasets import SVHN

    return [SVHN(str(root / "svhn"), split=part, download=True) for part in ("train", "test")]


def _url() -> str:
    from torchvision.datasets import SVHN

    return str(SVHN.split_list["train"][0])


DATA_SET = DataSetKind(
    name="svhn", title="SVHN", class_names=tuple("0123456789"), shape=IMAGE_SHAPE, num_train=73_257, num_test=26_032,
    original=Original(
        layout="original .mat files", folder="svhn", train=("train_32x32.mat",), test=("test_32x32.mat",), read=read_mat_file
    ),
    shard_folders=(".", "data", "cropped_digits"), download=_download, url=_url,
)  # fmt: skip
