"""Fashion-MNIST, grey."""

from __future__ import annotations

from trainable.data.idx_files import names_alike, read_idx_part
from trainable.data.kinds import DataSetKind, Download, Original

DATA_SET = DataSetKind(
    name="fashion_mnist", title="Fashion-MNIST",
    class_names=(
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    shape=(28, 28, 1), num_train=60_000, num_test=10_000,
    original=Original(
        layout="original idx files", folder="FashionMNIST/raw", train=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        test=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"), alike=names_alike, read=read_idx_part,
    ),
    shard_folders=(".", "data", "fashion_mnist"), download=Download("FashionMNIST"),
)  # fmt: skip
