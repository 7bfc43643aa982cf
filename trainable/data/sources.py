"""Where CIFAR-10 can come from: the layout of a data folder, found and checked without decoding, then read; the download."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainable.data.batch_files import FILE_NAMES, FOLDER_NAME, TEST_MD5, TRAIN_MD5, read_batch_files
from trainable.data.encoded_images import check_shards, list_images, read_class_folders, read_shards
from trainable.data.image_data import CLASS_NAMES, NUM_CLASSES, DataError, ImageData, build_image_data
from trainable.errors import first_line

Layout = Literal["original batch files", "Parquet shards", "class folders"]

_SHARD_FOLDERS = (".", "data", "plain_text")
_DOWNLOAD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Source:
    """The files of one data set in one layout, not decoded yet."""

    layout: Layout
    folder: Path
    train: tuple[Path, ...]  # files; for class folders the folders, in the order of labels
    test: tuple[Path, ...]
    class_names: tuple[str, ...] = CLASS_NAMES

    def __str__(self) -> str:
        return f"{self.layout} in {self.folder}"


def find_source(folder: Path) -> Source:
    """The data set in `folder`, checked as far as is possible without decoding. Errors: DataError."""
    try:
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "no such folder"
            raise DataError(f"{folder}: {problem}; name the folder that holds CIFAR-10")
        for find in (_find_batch_files, _find_shards, _find_class_folders):
            source = find(folder.resolve())
            if source is not None:
                return source
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    raise DataError(
        f"{folder}: no data set in it; needed is {FOLDER_NAME}/, or train-*.parquet with test-*.parquet, "
        "or train/<class>/ with test/<class>/ of PNG or JPEG images"
    )


def read_source(source: Source) -> ImageData:
    """All images of a source, decoded. Errors: DataError naming the file, and the row in it, counted from 0."""
    if source.layout == "original batch files":
        train, test = read_batch_files(source.folder, TRAIN_MD5), read_batch_files(source.folder, TEST_MD5)
    elif source.layout == "Parquet shards":
        train, test = read_shards(source.train), read_shards(source.test)
    else:
        train, test = read_class_folders(source.train), read_class_folders(source.test)
    return build_image_data("cifar10", train, test, source.class_names, str(source))


def compute_source_key(source: Source) -> str:
    """32 hex digits that change when a file of the source is added, removed, renamed or written.

    It hashes the path, size and time of change of every file, not their content: a file whose content was altered
    with its size and time kept (by `touch -r`, say) goes unnoticed.
    """
    digest = hashlib.sha256(f"{source.layout}\0{source.folder}".encode())
    for path in (*source.train, *source.test):
        for file in list_images(path) if path.is_dir() else [path]:
            status = file.stat()
            digest.update(f"\0{file}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def download_batch_files(root: Path) -> None:
    """Let torchvision put the original batch files below `root`. Errors: DataError when it cannot."""
    from torchvision.datasets import CIFAR10  # slow to import, and rarely needed

    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)  # torchvision sets none: a silent server would hold us for ever
    try:
        root.mkdir(parents=True, exist_ok=True)
        CIFAR10(str(root), download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"CIFAR-10 cannot be downloaded from {CIFAR10.url} to {root} ({first_line(error)}); name a folder that holds it with "
            "--data DIR, or use --set dataset=synthetic"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout_before)


def _find_batch_files(folder: Path) -> Source | None:
    for candidate in (folder / FOLDER_NAME, folder):
        present = [name for name in FILE_NAMES if (candidate / name).is_file()]
        if present or (candidate.name == FOLDER_NAME and candidate.is_dir()):
            for name in FILE_NAMES:
                if name not in present:
                    raise DataError(f"{candidate}: {name} is missing; needed are {', '.join(FILE_NAMES)}")
            train, test = (tuple(candidate / name for name in names) for names in (TRAIN_MD5, TEST_MD5))
            return Source("original batch files", candidate, train, test)
    return None


def _find_shards(folder: Path) -> Source | None:
    for candidate in (folder / name for name in _SHARD_FOLDERS):
        train, test = (tuple(sorted(candidate.glob(f"{part}-*.parquet"))) for part in ("train", "test"))
        if train or test:
            for part, found in (("train", train), ("test", test)):
                if not found:
                    raise DataError(f"{candidate}: no {part}-*.parquet in it")
                check_shards(found)
            return Source("Parquet shards", candidate, train, test)
    return None


def _find_class_folders(folder: Path) -> Source | None:
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
    if len(names["train"]) != NUM_CLASSES:
        raise DataError(f"{parts['train']}: {len(names['train'])} class folders, {NUM_CLASSES} are needed")
    train, test = (tuple(parts[part] / name for name in names[part]) for part in ("train", "test"))
    return Source("class folders", folder, train, test, tuple(names["train"]))
