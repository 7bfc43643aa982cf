"""Fetch the records and tables of a study from elsewhere: a folder, a pyarrow or fsspec URL, or W&B.

Only what analysis reads is fetched, not Ray's files nor checkpoints. Names are taken from a fixed list, never from the
source, and everything is checked on arrival, before the folder becomes what was asked for. Links in a local source are
refused: they could lead to any file of whoever pulls. Knows no torch and no Ray.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from analysis.records.study_folder import StudyFolder, StudyFolderError, check_schema
from trainable.data.cache import default_cache
from trainable.errors import first_line
from trainable.records.tables import SCHEMAS

_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*\.(csv|md|tex|html)")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LOCAL = ("local", "fsspec+file", "fsspec+local")
_CHUNK_BYTES = 1 << 20
_MOST_BYTES = 100 * 2**30


class PullError(StudyFolderError):
    """A source that cannot be read; the message names it and the reason."""


def pull(source: str, to: Path, more: Sequence[str] = ()) -> StudyFolder:
    """Fetch the study at `source` into the folder `to` and return it; also files called as in `more`, if there are such.

    `source` is a folder, a URL that pyarrow or fsspec can read (s3://, gs://, file://, ...), or wandb:ENTITY/PROJECT/GROUP.
    `to` must not exist, be empty, or hold an earlier copy of the same study, of which what differs is replaced. Errors: PullError,
    StudyFolderError where what is there is no study; `to` is then as it was.
    """
    target = StudyFolder(to)
    with _staging(target.path) as staged:
        if source.startswith("wandb:"):
            from analysis.sources.pull_wandb import pull_group  # wandb takes a second to import

            pull_group(source.removeprefix("wandb:"), staged)
        else:
            _fetch(source, staged, more)
        _check(staged)
        _check_target(target, staged)
        _replace(target, staged)
    return target


def copy_path(kind: str, url: str) -> Path:
    """The folder in the user's cache for a copy of what lies at `url`; always the same one. Not created here."""
    name = f"{url.rstrip('/').rpartition('/')[2]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    return default_cache() / kind / name


def pull_to_cache(url: str) -> StudyFolder:
    """Fetch the study at `url` into the user's cache, instead of an earlier copy. Errors: as `pull`."""
    target = copy_path("pulled", url)
    shutil.rmtree(target, ignore_errors=True)
    return pull(url, target)


@contextmanager
def _staging(target: Path) -> Iterator[StudyFolder]:
    """A temporary study folder beside the target, removed at the end whatever happens."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise PullError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield StudyFolder(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fetch(source: str, staged: StudyFolder, more: Sequence[str]) -> None:
    filesystem, root = open_source(source)
    try:
        names = [
            "study.json",
            "samples.npz",
            "telling_images.npz",
            "search.journal",
            *(f"{kind}.parquet" for kind in SCHEMAS),
            *more,
        ]
        infos = {name: filesystem.get_file_info(f"{root}/{name}") for name in names}
        found = {name: info.mtime_ns for name, info in infos.items() if info.type == fs.FileType.File}
        if "study.json" not in found:
            raise PullError(f"{source}: no study there, study.json is missing")
        tables = [f"report/tables/{name}" for name in _list_tables(filesystem, f"{root}/report/tables")]
        for name in (*found, *tables):
            if filesystem.type_name in _LOCAL:
                _refuse_links(Path(root), name)
            _copy(filesystem, f"{root}/{name}", staged.path / name)
            if (written_at := found.get(name)) is not None:  # not every store tells
                os.utime(staged.path / name, ns=(written_at, written_at))
    except (OSError, pa.ArrowException) as error:
        raise PullError(f"{source}: cannot be read ({first_line(error)})") from error


def is_url(source: str) -> bool:
    """Whether a source is a URL, not a folder."""
    return _URL.match(source) is not None


def open_source(source: str) -> tuple[Any, str]:
    """The pyarrow file system of a folder or URL, and the path in it. Errors: PullError."""
    if not is_url(source):
        path = Path(source).expanduser().absolute()
        if not path.is_dir():
            raise PullError(f"{source}: no such folder")
        return fs.LocalFileSystem(), path.as_posix()
    try:
        filesystem, root = fs.FileSystem.from_uri(source)
    except (pa.ArrowException, OSError, ValueError) as problem:
        filesystem, root = _open_with_fsspec(source, problem)
    return filesystem, root.rstrip("/")


def _open_with_fsspec(source: str, problem: Exception) -> tuple[Any, str]:
    try:
        import fsspec  # type: ignore[import-untyped]  # comes with torch and Ray; needed only for such URLs

        filesystem, root = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError, OSError) as error:
        raise PullError(f"{source}: {first_line(problem)}; {first_line(error)}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), root


def _list_tables(filesystem: Any, folder: str) -> Iterator[str]:
    if filesystem.get_file_info(folder).type != fs.FileType.Directory:
        return
    for info in filesystem.get_file_info(fs.FileSelector(folder)):
        if info.type == fs.FileType.File and _TABLE_NAME.fullmatch(info.base_name):
            yield info.base_name


def _refuse_links(root: Path, name: str) -> None:
    """Neither the file nor a folder between it and the source is a link."""
    for path in (root / name, *(root / folder for folder in Path(name).parents if folder.name)):
        if path.is_symlink():
            raise PullError(
                f"{path}: is a link, and only files of the study itself are fetched; put the file in its place"
            )


def _copy(filesystem: Any, path: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with filesystem.open_input_stream(path) as stream, target.open("wb") as file:
        while chunk := stream.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > _MOST_BYTES:
                raise PullError(f"{path}: larger than {_MOST_BYTES / 2**30:.0f} GiB, not a file of a study")
            file.write(chunk)


def _check(staged: StudyFolder) -> None:
    """Everything that was fetched can be read; errors name the file without the temporary folder."""
    try:
        staged.read_study()
        for kind in SCHEMAS:
            if staged.records(kind).exists():
                check_schema(staged.records(kind), kind)
        staged.read_samples()
        if staged.search_journal.exists():
            from analysis.search.journal import read_journal  # Optuna takes a second to import

            read_journal(staged.search_journal, [staged.read_study().name])
    except StudyFolderError as error:
        raise PullError(str(error).replace(f"{staged.path}/", "")) from error


def _check_target(target: StudyFolder, staged: StudyFolder) -> None:
    if not target.path.exists() or (target.path.is_dir() and not any(target.path.iterdir())):
        return
    new = staged.read_study()
    if target.exists():
        old = target.read_study()
        if (old.name, old.created_at) == (new.name, new.created_at):
            if target.trials.exists():
                raise PullError(
                    f"{target.path}: is the study itself, with its trials, not a copy; choose another folder"
                )
            return
        raise PullError(f"{target.path}: holds another study, {old.name!r}; choose another folder")
    raise PullError(f"{target.path}: is not empty; choose another folder")


def _replace(target: StudyFolder, staged: StudyFolder) -> None:
    """Move over the files that differ, study.json last: until then an interrupted pull leaves no new study behind."""
    files = sorted(path.relative_to(staged.path) for path in staged.path.rglob("*") if path.is_file())
    try:
        for name in sorted(files, key=lambda name: name.name == "study.json"):
            old, new = target.path / name, staged.path / name
            if not (old.is_file() and filecmp.cmp(old, new, shallow=False)):
                old.parent.mkdir(parents=True, exist_ok=True)
                new.replace(old)
    except OSError as error:
        raise PullError(f"{target.path}: cannot be written ({error.strerror})") from error
