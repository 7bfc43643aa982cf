"""CIFAR-10."""

from __future__ import annotations

from trainable.data import batch_files
from trainable.data.image_data import CLASS_NAMES, IMAGE_SHAPE
from trainable.data.kinds import DataSetKind, Download, Original

DATA_SET = DataSetKind(
    name="cifar10", title="CIFAR-10", class_names=CLASS_NAMES, shape=IMAGE_SHAPE, num_train=50_000, num_test=10_000,
    original=Original(
        layout="original batch files", folder="cifar-10-batches-py", train=tuple(batch_files.TRAIN_MD5),
        test=tuple(batch_files.TEST_MD5), read=batch_files.read_cifar10,
    ),
    shard_folders=(".", "data", "plain_text"), download=Download("CIFAR10"),
)  # fmt: skip
