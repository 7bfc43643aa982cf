"""Images stored as PNG or JPEG, in Parquet shards or in one folder per class, decoded to arrays of one shape.

The images of a known data set have its size and channels, or are refused. Images of the user's own are made square: the shorter side
is scaled to the wanted size by Pillow's bicubic filter, which averages where it shrinks, and of the longer side the middle is kept;
colours are Pillow's RGB, without transparency. If no image has a colour, they have one channel.
60,000 of them take about 7 s on one core: Pillow spends most of that holding the interpreter lock, so threads do not help.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainable.data.image_data import IMAGE_SHAPE, MOST_CLASSES, DataError, ImageArray, Images, LabelArray
from trainable.errors import first_line

if TYPE_CHECKING:
    from PIL import Image

IMAGE_COLUMNS = ("img", "image")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<index>\d+)-of-(?P<total>\d+)\.parquet")
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error)


@dataclass(frozen=True)
class Form:
    """What decoded images are: of one shape (height, width, channels), which others are brought to (`fitted`) or refused for."""

    shape: tuple[int, int, int] = IMAGE_SHAPE
    fitted: bool = False


PUBLISHED_FORM = Form()


def decode_image(encoded: bytes, where: str, form: Form = PUBLISHED_FORM) -> ImageArray:
    """One PNG or JPEG file -> (height, width, channels). Errors: DataError that begins with `where`."""
    from PIL import Image

    size, modes = (form.shape[1], form.shape[0]), ("RGB", "L", "P") if form.shape[2] == 3 else ("L", "P")
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
            if form.fitted:
                return np.asarray(_fit(image.convert("RGB"), size))
            if image.size != size:
                found, needed = (f"{width}x{height}" for width, height in (image.size, size))
                raise DataError(f"{where}: image is {found} pixels, {needed} are needed")
            if image.mode not in modes:
                raise DataError(f"{where}: image has mode {image.mode}, {modes[0]} is needed")
            return np.asarray(image.convert(modes[0])).reshape(form.shape)
    except DataError:
        raise
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: image does not decode ({first_line(error)})") from error


def _fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of the image, scaled; one that has the size is left as it is."""
    from PIL import Image, ImageOps

    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.BICUBIC)


def without_colour(train: Images, test: Images) -> tuple[Images, Images]:
    """The same with one channel, if no image of both has a colour."""
    if any((images[..., :1] != images[..., 1:]).any() for images, _ in (train, test)):
        return train, test
    return (train[0][..., :1].copy(), train[1]), (test[0][..., :1].copy(), test[1])


def read_class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names of the classes that a shard of Hugging Face's declares; none where it does not, or not legibly."""
    import pyarrow.parquet as pq

    try:
        declared = json.loads((pq.read_schema(path).metadata or {})[b"huggingface"])
        names = declared["info"]["features"][column]["names"]
        return tuple(map(str, names)) if isinstance(names, list) else ()
    except (KeyError, TypeError, ValueError):
        return ()


def check_shards(paths: Sequence[Path], label_columns: Sequence[str] = ("label",)) -> None:
    """Raise DataError unless the Parquet shards are complete by name, whole, and of the needed columns. Reads no rows."""
    names = {path.name for path in paths}
    for path in paths:
        if match := _SHARD_NAME.fullmatch(path.name):
            stem, width, total = match["stem"], len(match["index"]), match["total"]
            for index in range(int(total)):
                if (name := f"{stem}-{index:0{width}}-of-{total}.parquet") not in names:
                    raise DataError(f"{path.parent / name}: this shard is missing; all {int(total)} are needed")
        find_columns(path, label_columns)


def read_shards(
    paths: Sequence[Path],
    form: Form = PUBLISHED_FORM,
    label_columns: Sequence[str] = ("label",),
    num_classes: int | None = None,
) -> Images:
    """Images and labels of Parquet shards, in their order. Errors: DataError naming file and row (from 0)."""
    parts = [_read_shard(path, form, label_columns, num_classes) for path in paths]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def read_class_folders(folders: Sequence[Path], form: Form = PUBLISHED_FORM) -> Images:
    """Images of class folders, labelled by the order of `folders`; within a class in the order of file names."""
    images: list[ImageArray] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        paths = list_images(folder)
        if not paths:
            raise DataError(f"{folder}: no .png or .jpg image in it")
        images += [decode_image(_read_bytes(path), str(path), form) for path in paths]
        labels += [label] * len(paths)
    return np.stack(images), np.array(labels, dtype=np.int64)


def list_images(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder by name; hidden files are left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def find_columns(path: Path, label_columns: Sequence[str]) -> tuple[str, str]:
    """The names of the columns of images and of labels, after a check of the file's schema. Errors: DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    name = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in label_columns if name in schema.names), None)
    if name is None or label is None:
        missing = "img or image" if name is None else " or ".join(label_columns)
        raise DataError(f"{path}: no column {missing}; columns are {', '.join(schema.names) or 'none'}")
    kind = schema.field(name).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"{path}: column {name} holds {kind}, encoded image files are needed")
    if not pa.types.is_integer(schema.field(label).type):
        raise DataError(f"{path}: column {label} holds {schema.field(label).type}, whole numbers are needed")
    return name, label


def _read_shard(path: Path, form: Form, label_columns: Sequence[str], num_classes: int | None) -> Images:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column, label = find_columns(path, label_columns)
    try:
        table = pq.read_table(path, columns=[column, label])
        encoded = table[column].combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: holds no rows")
    labels = _check_labels(table[label], path, num_classes)
    images = np.empty((table.num_rows, *form.shape), dtype=np.uint8)
    for row, item in enumerate(encoded.to_pylist()):
        content = item["bytes"] if isinstance(item, dict) else item
        if content is None:
            raise DataError(f"{path}: row {row}: image is null")
        images[row] = decode_image(content, f"{path}: row {row}", form)
    return images, labels


def _check_labels(column: Any, path: Path, num_classes: int | None) -> LabelArray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{path}: row {row}: label is null")
    labels: npt.NDArray[np.integer[Any]] = column.to_numpy()
    limit = MOST_CLASSES if num_classes is None else num_classes
    bad = np.flatnonzero((labels < 0) | (labels >= limit))
    if len(bad):
        raise DataError(f"{path}: row {bad[0]}: label {labels[bad[0]]} is not in 0..{limit - 1}")
    return labels.astype(np.int64)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
