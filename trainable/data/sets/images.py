"""Images of the user's own, in class folders, Parquet shards or idx files."""

from __future__ import annotations

from trainable.data.idx_files import names_alike, read_idx_part
from trainable.data.kinds import DataSetKind, Original

DATA_SET = DataSetKind(
    name="images", title="own images",
    original=Original(
        layout="idx files", folder="raw", train=("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        test=("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"), alike=names_alike, read=read_idx_part,
    ),
)  # fmt: skip
