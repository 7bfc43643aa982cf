"""SVHN, cropped digits, without the extra images."""

from __future__ import annotations

from trainable.data.image_data import IMAGE_SHAPE
from trainable.data.kinds import DataSetKind, Download, Original
from trainable.data.mat_files import read_mat_file

DATA_SET = DataSetKind(
    name="svhn", title="SVHN", class_names=tuple("0123456789"), shape=IMAGE_SHAPE, num_train=73_257, num_test=26_032,
    original=Original(
        layout="original .mat files", folder="svhn", train=("train_32x32.mat",), test=("test_32x32.mat",), read=read_mat_file
    ),
    shard_folders=(".", "data", "cropped_digits"), download=Download("SVHN", folder="svhn", splits=("train", "test")),
)  # fmt: skip
