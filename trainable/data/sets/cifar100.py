"""CIFAR-100, with its 100 fine classes."""

from __future__ import annotations

from trainable.data import batch_files
from trainable.data.image_data import IMAGE_SHAPE
from trainable.data.kinds import DataSetKind, Download, Original

CLASS_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip


DATA_SET = DataSetKind(
    name="cifar100", title="CIFAR-100", class_names=CLASS_NAMES, shape=IMAGE_SHAPE, num_train=50_000, num_test=10_000,
    original=Original(
        layout="original batch files", folder="cifar-100-python", train=("train",), test=("test",),
        read=batch_files.read_cifar100,
    ),
    shard_folders=(".", "data", "cifar100"), label_columns=("fine_label", "label"), download=Download("CIFAR100"),
)  # fmt: skip
