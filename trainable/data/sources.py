"""Where the images of a data set can come from: the layout of a data folder, found and checked without decoding, then read; the download."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainable.data.encoded_images import (
    Form,
    check_shards,
    find_columns,
    list_images,
    read_class_folders,
    read_class_names,
    read_shards,
    without_colour,
)
from trainable.data.image_data import IMAGE_SHAPE, DataError, ImageData, build_image_data
from trainable.data.kinds import DataSetKind, Original, find_kind
from trainable.errors import first_line

Layout = Literal["original", "Parquet shards", "class folders"]

_DOWNLOAD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Source:
    """The files of one data set in one layout, not decoded yet."""

    dataset: str
    layout: Layout
    words: str  # for the layout
    folder: Path
    train: tuple[Path, ...]  # files; for class folders the folders, in the order of labels
    test: tuple[Path, ...]
    class_names: tuple[str, ...]  # empty: the labels are numbers
    form: Form

    def __str__(self) -> str:
        return f"{self.words} in {self.folder}"


def find_source(dataset: str, folder: Path, image_size: int = IMAGE_SHAPE[0]) -> Source:
    """The data set in `folder`, checked as far as is possible without decoding. Errors: DataError."""
    kind = find_kind(dataset)
    form = Form((image_size, image_size, 3), fitted=True) if kind.shape is None else Form(kind.shape)
    try:
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "no such folder"
            raise DataError(f"{folder}: {problem}; name the folder that holds {kind.title}")
        for find in (_find_original, _find_shards, _find_class_folders):
            source = find(kind, folder.resolve(), form)
            if source is not None:
                return source
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    original = "" if kind.original is None else f"{kind.original.folder}/, or "
    raise DataError(
        f"{folder}: no data set in it; needed is {original}train-*.parquet with test-*.parquet, "
        "or train/<class>/ with test/<class>/ of PNG or JPEG images"
    )


def read_source(source: Source) -> ImageData:
    """All images of a source, decoded. Errors: DataError naming the file, and the row in it, counted from 0."""
    kind = find_kind(source.dataset)
    if source.layout == "original":
        assert kind.original is not None
        train, test = kind.original.read(source.train), kind.original.read(source.test)
    elif source.layout == "Parquet shards":
        num_classes = len(source.class_names) or None
        train, test = (
            read_shards(part, source.form, kind.label_columns, num_classes) for part in (source.train, source.test)
        )
    else:
        train, test = (read_class_folders(part, source.form) for part in (source.train, source.test))
    if source.form.fitted:
        train, test = without_colour(train, test)
    names = source.class_names or tuple(map(str, range(int(train[1].max()) + 1)))
    return build_image_data(source.dataset, train, test, names, str(source))


def compute_source_key(source: Source) -> str:
    """32 hex digits that change when a file of the source is added, removed, renamed or written, or is decoded otherwise.

    It hashes the path, size and time of change of every file, not their content: a file whose content was altered
    with its size and time kept (by `touch -r`, say) goes unnoticed.
    """
    form = f"\0{source.form.shape}" if source.form.fitted else ""
    digest = hashlib.sha256(f"{source.words}\0{source.folder}{form}".encode())
    for path in (*source.train, *source.test):
        for file in list_images(path) if path.is_dir() else [path]:
            status = file.stat()
            digest.update(f"\0{file}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def download_original(kind: DataSetKind, root: Path) -> None:
    """Let torchvision put the original files below `root`. Errors: DataError when it cannot."""
    assert kind.download is not None
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torchvision sets none: a silent server would hold us for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        kind.download.fetch(root)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{kind.title} cannot be downloaded from {kind.download.url} to {root} ({first_line(error)}); name a folder that holds it with "
            "--data DIR, or use --set dataset=synthetic"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout_before)


def _find_original(kind: DataSetKind, folder: Path, form: Form) -> Source | None:
    original = kind.original
    if original is None:
        return None
    names = (*original.train, *original.test)
    own = folder.as_posix().endswith(f"/{original.folder}")
    for candidate in (folder / original.folder, folder):
        present = {name: path for name in names if (path := _find_file(original, candidate, name)) is not None}
        if present or (candidate == folder and own):
            for name in names:
                if name not in present:
                    raise DataError(f"{candidate}: {name} is missing; needed are {', '.join(names)}")
            train, test = (tuple(present[name] for name in part) for part in (original.train, original.test))
            return Source(kind.name, "original", original.layout, candidate, train, test, kind.class_names, form)
    return None


def _find_file(original: Original, folder: Path, name: str) -> Path | None:
    return next((folder / other for other in original.alike(name) if (folder / other).is_file()), None)


def _find_shards(kind: DataSetKind, folder: Path, form: Form) -> Source | None:
    for candidate in (folder / name for name in kind.shard_folders):
        train, test = (tuple(sorted(candidate.glob(f"{part}-*.parquet"))) for part in ("train", "test"))
        if train or test:
            for part, found in (("train", train), ("test", test)):
                if not found:
                    raise DataError(f"{candidate}: no {part}-*.parquet in it")
                check_shards(found, kind.label_columns)
            label = find_columns(train[0], kind.label_columns)[1]
            names = kind.class_names or read_class_names(train[0], label)
            return Source(kind.name, "Parquet shards", "Parquet shards", candidate, train, test, names, form)
    return None


def _find_class_folders(kind: DataSetKind, folder: Path, form: Form) -> Source | None:
    parts = {part: folder / part for part in ("train", "test")}
    if not any(part.is_dir() for part in parts.values()):
        return None
    names = {}
    for part, path in parts.items():
        if not path.is_dir():
            raise DataError(f"{path}: missing; class folders need train/<class>/ and test/<class>/")
        names[part] = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] != ".")
    for name in sorted(set(names["train"]) ^ set(names["test"])):
        part, other = ("train", "test") if name in names["train"] else ("test", "train")
        raise DataError(f"{parts[part] / name}: a class that {other}/ does not have")
    if kind.class_names and len(names["train"]) != len(kind.class_names):
        raise DataError(
            f"{parts['train']}: {len(names['train'])} class folders, {len(kind.class_names)} are needed for {kind.title}; "
            "images of your own are dataset=images"
        )
    train, test = (tuple(parts[part] / name for name in names[part]) for part in ("train", "test"))
    return Source(kind.name, "class folders", "class folders", folder, train, test, tuple(names["train"]), form)
