"""Data sets that are known by name: a file of trainable/data/sets each, that declares what its images are and how they were first published.

Imports neither torch nor what decodes images. A data set of the user's own is a folder of images (`images`) or a function.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trainable.data.image_data import DataError, Images
from trainable.discovery import discover
from trainable.user_code import is_reference, provide, read_sources, resolve

Parts = tuple[Images, Images]  # training and test
_sizes: dict[str, tuple[int, int]] = {}  # of data sets that were read in this process


@dataclass(frozen=True, kw_only=True)
class Original:
    """The files of a data set as it was first published; `alike` are other names that each of them may have."""

    layout: str  # in words
    folder: str  # the name of the folder that holds them
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[tuple[Path, ...]], Images]  # the files of a part, in their order
    alike: Callable[[str], tuple[str, ...]] = lambda name: (name,)


@dataclass(frozen=True)
class Download:
    """A class of torchvision.datasets that downloads the original files into `folder` below another, part by part where it has `splits`."""

    name: str
    folder: str = "."
    splits: tuple[str, ...] = ()

    def fetch(self, root: Path) -> None:
        """Errors: those of torchvision."""
        for split in self.splits or (None,):
            self._find()(str(root / self.folder), download=True, **({} if split is None else {"split": split}))

    @property
    def url(self) -> str:
        """Where from, in words."""
        found = self._find()
        return str(
            found.split_list[self.splits[0]][0] if self.splits else getattr(found, "url", None) or found.mirrors[0]
        )

    def _find(self) -> Any:
        from torchvision import datasets  # slow to import, and rarely needed

        return getattr(datasets, self.name)


@dataclass(frozen=True, kw_only=True)
class DataSetKind:
    """A data set. `class_names` is empty and `shape` None where the files say; num_train and num_test are those of the whole set."""

    name: str
    title: str
    class_names: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None  # height, width, channels
    num_train: int | None = None
    num_test: int | None = None
    draw: Callable[[], Parts] | None = None  # the images of one that has no files
    original: Original | None = None
    shard_folders: tuple[str, ...] = (".", "data")  # below the folder of the user's
    label_columns: tuple[str, ...] = ("label",)
    download: Download | None = None


@cache
def list_kinds() -> dict[str, DataSetKind]:
    """The known data sets by name."""
    return discover("trainable.data.sets", DataSetKind)


def find_kind(dataset: str) -> DataSetKind:
    """The data set of this name. Errors: DataError naming the nearest one."""
    known = list_kinds()
    if dataset not in known:
        near = difflib.get_close_matches(dataset, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(known)}, or package.module:function"
        raise DataError(f"dataset={dataset!r} is not known: {hint}")
    return known[dataset]


def check_dataset(dataset: str, folders: Iterable[Path] = ()) -> None:
    """Refuse a name that is not known; a function of the user's is read from the first of `folders` that has its module.

    Errors: DataError, UserCodeError.
    """
    if is_reference(dataset):
        provide(read_sources(dataset, folders))
        resolve(dataset)
    else:
        find_kind(dataset)


def title_of(dataset: str) -> str:
    """What a data set is called."""
    return dataset if is_reference(dataset) else find_kind(dataset).title


def remember_sizes(dataset: str, num_train: int, num_test: int) -> None:
    """Let `sizes_of` know the numbers of images of a data set that was read, if nobody knew them before."""
    if sizes_of(dataset) is None or dataset in _sizes:
        _sizes[dataset] = num_train, num_test


def sizes_of(dataset: str) -> tuple[int, int] | None:
    """Images of the whole training and test set; None where nobody knows before it is read."""
    kind = list_kinds().get(dataset)
    if kind is None or kind.num_train is None or kind.num_test is None:
        return _sizes.get(dataset)
    return kind.num_train, kind.num_test
