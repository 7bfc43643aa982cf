"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path

from trainable.data import batch_files
from trainable.data.image_data import CLASS_NAMES, IMAGE_SHAPE
from trainable.data.kinds import DataSetKind, Original


def _download(root: Path) -> object:
    from torchvision.datasets import CIFAR10  # slow to import, and rarely needed

    return CIFAR10(str(root), download=True)


def _url() -> str:
    from torchvision.datasets import CIFAR10

    return str(CIFAR10.url)


DATA_SET = DataSetKind(
    name="cifar10", title="CIFAR-10", class_names=CLASS_NAMES, shape=IMAGE_SHAPE, num_train=50_000, num_test=10_000,
    original=Original(
        layout="original batch files", folder="cifar-10-batches-py", train=tuple(batch_files.TRAIN_MD5),
        test=tuple(batch_files.TEST_MD5), read=batch_files.read_cifar10,
    ),
    shard_folders=(".", "data", "plain_text"), download=_download, url=_url,
)  # fmt: skip
