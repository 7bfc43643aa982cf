"""The study folder: the one place that knows its names, how to read it and how to write it.

    results/<study>/
      study.json       what was asked: cells, seeds, data, code, versions, hardware, invocations of the driver
      trials.parquet   epochs.parquet  steps.parquet  layers.parquet   records of all trials (trainable/records/tables.py)
      model.parquet    the layers of every model of the study
      barriers.parquet     losses between the final weights of pairs of trials, once they were measured
      search.journal   Optuna's own storage of a search, where there is one
      samples.npz      images (classes, n, height, width, 3 or 1) uint8 and class_names (classes,) for the sample figure, test_labels (N,) uint8
      telling_images.npz   the test images on which cells differ most (image_files.py)
      trials/<id>/     one trial: trial.json, its newest checkpoints, its own records
      driver.json      driver.log   drivers/   the lock of the driver that works on it, what drivers printed, locks at a URL
      progress.json    how far the study is (study/folder/progress_file.py)
      ray/             Ray Tune's own files
      report/          index.html, tables/, figures/

A folder may come from someone else: everything here is JSON, Parquet or NPZ without pickles, checked on reading, and a
folder that cannot be read raises StudyFolderError naming the file and the reason. It may come from an older or newer version,
too: what that lacks has its default or is null, what only that knows is kept. Knows no torch and no Ray.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records.study_json import IncompatibleStudyError as IncompatibleStudyError
from analysis.records.study_json import StudyFolderError as StudyFolderError
from analysis.records.study_json import StudyInfo, parse_study, read_json
from trainable.errors import IncompatibleVersionError, first_line
from trainable.files import write_atomically
from trainable.records.tables import KEYS, SCHEMA_VERSION, SCHEMAS, check_columns, conform, widened


@dataclass(frozen=True)
class StudyFolder:
    """A study folder at `path`; nothing is read or created until asked for."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())

    @property
    def study_json(self) -> Path:
        return self.path / "study.json"

    @property
    def samples(self) -> Path:
        return self.path / "samples.npz"

    @property
    def telling_images(self) -> Path:
        return self.path / "telling_images.npz"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def search_journal(self) -> Path:
        return self.path / "search.journal"

    @property
    def ray(self) -> Path:
        return self.path / "ray"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def tables(self) -> Path:
        return self.report / "tables"

    @property
    def figures(self) -> Path:
        return self.report / "figures"

    def records(self, kind: str) -> Path:
        """The file of one kind of record: trials, epochs, steps, layers or model."""
        return self.path / f"{kind}.parquet"

    def trial(self, trial_id: str) -> Path:
        """The folder of one trial."""
        return self.trials / trial_id

    def exists(self) -> bool:
        """True where there is a study."""
        return self.study_json.is_file()

    def read_study(self) -> StudyInfo:
        """study.json, checked. Errors: StudyFolderError."""
        if not self.path.is_dir():
            raise StudyFolderError(f"{self.path}: no such study folder")
        return parse_study(read_json(self.study_json), self.study_json)

    def write_study(self, study: StudyInfo) -> None:
        """Replace study.json in one step."""
        write_atomically(self.study_json, study.to_json().encode())

    def read_records(self, kind: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        """A table of records: the columns of this version, then those of the file that it does not know.

        A column that the file lacks is null; an absent file other than trials is an empty table. `columns` and `filters` (a
        pyarrow expression) are pushed down to the file. Errors: StudyFolderError.
        """
        path = self.records(kind)
        found = SCHEMAS[kind]
        if path.exists():
            found = check_schema(path, kind)
        elif kind == "trials":
            raise StudyFolderError(f"{path}: missing; the study has not written its records yet")
        wanted = widened(kind, found)
        if columns is not None:
            wanted = pa.schema([wanted.field(name) for name in columns], metadata=wanted.metadata)
        if not path.exists():
            return wanted.empty_table()
        present = [name for name in wanted.names if name in found.names] or list(KEYS[kind][:1])
        try:
            table = pq.read_table(path, columns=present, filters=filters)
        except (pa.ArrowException, OSError) as error:
            raise StudyFolderError(f"{path}: cannot be read ({first_line(error)})") from error
        return conform(table, wanted).replace_schema_metadata(found.metadata)

    def column_names(self, kind: str) -> list[str]:
        """The columns that `read_records` gives of this kind. Errors: StudyFolderError."""
        path = self.records(kind)
        names: list[str] = widened(kind, check_schema(path, kind) if path.exists() else SCHEMAS[kind]).names
        return names

    def write_records(self, kind: str, table: pa.Table) -> None:
        """Replace the file of one kind of record in one step; unknown columns and extra metadata of `table` are kept."""
        metadata = {**(table.schema.metadata or {}), **SCHEMAS[kind].metadata}
        sink = pa.BufferOutputStream()
        complete = conform(table, widened(kind, table.schema)).replace_schema_metadata(metadata)
        pq.write_table(complete, sink, compression="zstd")
        write_atomically(self.records(kind), sink.getvalue())

    def read_samples(self) -> tuple[np.ndarray, list[str]] | None:
        """The sample images (classes, n, height, width, 3 or 1) uint8 and the class names; None where none were kept."""
        if not self.samples.exists():
            return None
        images, names = read_arrays(self.samples, "images", "class_names")
        if images.ndim != 5 or images.dtype != np.uint8 or images.shape[4] not in (1, 3) or len(images) != len(names):
            raise StudyFolderError(f"{self.samples}: images have shape {images.shape} and type {images.dtype}")
        return images, [str(name) for name in names]


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """These arrays of an NPZ file. Errors: StudyFolderError where it or one of them cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return [content[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile) as error:
        raise StudyFolderError(f"{path}: cannot be read ({first_line(error)})") from error


def check_links(folder: StudyFolder) -> None:
    """Refuse a study folder in which a place to be written is a link: it could lead anywhere. Errors: StudyFolderError."""
    trials = folder.trials.iterdir() if folder.trials.is_dir() else ()
    for path in (
        folder.path,
        folder.trials,
        folder.ray,
        folder.report,
        folder.tables,
        folder.figures,
        folder.path / "wandb",
        folder.search_journal,
        *trials,
    ):
        if path.is_symlink():
            raise StudyFolderError(
                f"{path}: is a link, and a study is written in its own folder only; name the real place, or remove the link"
            )


def check_schema(path: Path, kind: str) -> pa.Schema:
    """The columns of a Parquet file of `kind` records. Errors: StudyFolderError unless this version can read them."""
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise StudyFolderError(f"{path}: not a readable Parquet file ({first_line(error)})") from error
    version = (found.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        kind_of_error = IncompatibleStudyError if version.isdecimal() else StudyFolderError
        raise kind_of_error(f"{path}: schema version {version}, this program reads version {SCHEMA_VERSION}")
    try:
        check_columns(kind, found)
    except IncompatibleVersionError as error:
        raise IncompatibleStudyError(f"{path}: {error}") from error
    except ValueError as error:
        raise StudyFolderError(f"{path}: {error}") from error
    return found
