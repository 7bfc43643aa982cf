"""Images stored as PNG or JPEG, in Parquet shards or in one folder per class, decoded to 32x32 RGB arrays.

60,000 of them take about 7 s on one core: Pillow spends most of that holding the interpreter lock, so threads do not help.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainable.data.image_data import IMAGE_SHAPE, NUM_CLASSES, DataError, ImageArray, LabelArray
from trainable.errors import first_line

IMAGE_COLUMNS = ("img", "image")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<index>\d+)-of-(?P<total>\d+)\.parquet")
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def decode_image(encoded: bytes, where: str) -> ImageArray:
    """One PNG or JPEG file -> (32, 32, 3). Errors: DataError that begins with `where`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if (height, width) != IMAGE_SHAPE[:2]:
                raise DataError(f"{where}: image is {width}x{height} pixels, 32x32 are needed")
            if image.mode not in ("RGB", "L", "P"):
                raise DataError(f"{where}: image has mode {image.mode}, RGB is needed")
            return np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: image does not decode ({first_line(error)})") from error


def check_shards(paths: Sequence[Path]) -> None:
    """Raise DataError unless the Parquet shards are complete by name, whole, and of the needed columns. Reads no rows."""
    names = {path.name for path in paths}
    for path in paths:
        if match := _SHARD_NAME.fullmatch(path.name):
            stem, width, total = match["stem"], len(match["index"]), match["total"]
            for index in range(int(total)):
                if (name := f"{stem}-{index:0{width}}-of-{total}.parquet") not in names:
                    raise DataError(f"{path.parent / name}: this shard is missing; all {int(total)} are needed")
        _find_image_column(path)


def read_shards(paths: Sequence[Path]) -> tuple[ImageArray, LabelArray]:
    """Images and labels of Parquet shards, in their order. Errors: DataError naming file and row (from 0)."""
    parts = [_read_shard(path) for path in paths]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def read_class_folders(folders: Sequence[Path]) -> tuple[ImageArray, LabelArray]:
    """Images of class folders, labelled by the order of `folders`; within a class in the order of file names."""
    images: list[ImageArray] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        paths = list_images(folder)
        if not paths:
            raise DataError(f"{folder}: no .png or .jpg image in it")
        images += [decode_image(_read_bytes(path), str(path)) for path in paths]
        labels += [label] * len(paths)
    return np.stack(images), np.array(labels, dtype=np.int64)


def list_images(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder by name; hidden files are left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _find_image_column(path: Path) -> str:
    """The name of the column of images, after a check of the file's schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    name = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if name is None or "label" not in schema.names:
        missing = "img or image" if name is None else "label"
        raise DataError(f"{path}: no column {missing}; columns are {', '.join(schema.names) or 'none'}")
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{path}: column {name} holds {kind}, encoded image files are needed")
    if not pa.types.is_integer(schema.field("label").type):
        raise DataError(f"{path}: column label holds {schema.field('label').type}, whole numbers are needed")
    return name


def _read_shard(path: Path) -> tuple[ImageArray, LabelArray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = _find_image_column(path)
    try:
        table = pq.read_table(path, columns=[column, "label"])
        encoded = table[column].combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: holds no rows")
    labels = _check_labels(table["label"], path)
    images = np.empty((table.num_rows, *IMAGE_SHAPE), dtype=np.uint8)
    for row, item in enumerate(encoded.to_pylist()):
        content = item["bytes"] if isinstance(item, dict) else item
        if content is None:
            raise DataError(f"{path}: row {row}: image is null")
        images[row] = decode_image(content, f"{path}: row {row}")
    return images, labels


def _check_labels(column: Any, path: Path) -> LabelArray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{path}: row {row}: label is null")
    labels: npt.NDArray[np.integer[Any]] = column.to_numpy()
    bad = np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))
    if len(bad):
        raise DataError(f"{path}: row {bad[0]}: label {labels[bad[0]]} is not in 0..{NUM_CLASSES - 1}")
    return labels.astype(np.int64)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
