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

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records.factors import align_fields
from trainable.config import FIELDS, complete_fields
from trainable.errors import IncompatibleVersionError, first_line
from trainable.files import write_atomically
from trainable.records.stored import Stored, from_stored, set_unknown_apart
from trainable.records.tables import KEYS, SCHEMA_VERSION, SCHEMAS, check_columns, conform, widened

PRIMARY_METRIC = "final_test_accuracy"  # where a grid says nothing
BRANCH_TOLERANCE = (
    0.02  # nats, where a grid says nothing: a branch whose loss is worse than the base's by more has departed
)
EQUIVALENCE_MARGIN = 0.005  # where a grid says nothing: accuracies that differ by less count as equivalent


class StudyFolderError(Exception):
    """A study folder that is missing, damaged, foreign or newer than this program; the message names file and reason."""


class IncompatibleStudyError(StudyFolderError):
    """A whole file of a study that this version cannot use, as a newer one may write: it is neither repaired nor replaced."""


@dataclass(frozen=True)
class Cell(Stored):
    """One configuration of the study without its seed, and what was published about it.

    `config` holds every TrialConfig field but the seed. `published` maps names of metrics (analysis/metrics) to
    published values, accuracies as fractions.
    """

    cell_id: str
    label: str
    config: dict[str, Any]
    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyInfo(Stored):
    """The content of study.json: everything about a study that is not a measurement."""

    name: str
    title: str
    created_at: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    factors: tuple[str, ...]  # configuration fields that differ between cells
    reductions: tuple[str, ...]  # how the study is smaller than its grid file says, in words; empty if it is not
    equivalence_margin: float
    data: dict[str, Any]  # dataset, fingerprint, source, num_train, num_test, class_names
    code: dict[str, Any]  # fingerprint of trainable, commit, diff hash
    environment: dict[str, Any]  # versions and hardware
    resources: dict[str, Any] = field(default_factory=dict)  # CPUs and GPUs of a trial
    attempts: tuple[dict[str, Any], ...] = ()  # one entry per invocation of the driver
    accepted_changes: tuple[dict[str, Any], ...] = ()  # changes that --accept-changes let in
    primary_metric: str = PRIMARY_METRIC  # the metric that decides which cells differ
    claims: str | None = (
        None  # it is held against: "worksheet", the text of a claims file, or "" for none; None: not said
    )
    stopping: dict[str, int] | None = None  # first and most: seeds after which one first and last looks at the verdicts
    search: dict[str, Any] | None = None  # the resolved [search] table and `enqueued`, the configurations tried first
    branch: dict[str, Any] | None = None  # the resolved [branch] table
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of study.json."""
        return json.dumps(self.to_stored(), indent=1, sort_keys=False, allow_nan=False) + "\n"


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


def read_json(path: Path) -> Any:
    """The content of a JSON file. Errors: StudyFolderError naming the file and the reason."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StudyFolderError(f"{path}: missing; not a study folder") from None
    except OSError as error:
        raise StudyFolderError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise StudyFolderError(f"{path}: not valid JSON ({first_line(error)})") from error


def parse_study(content: Any, path: Path) -> StudyInfo:
    """Parsed JSON -> StudyInfo; StudyFolderError names the first field that is missing or of the wrong type."""
    if not isinstance(content, dict):
        raise StudyFolderError(f"{path}: not a study")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        kind_of_error = IncompatibleStudyError if type(version) is int else StudyFolderError
        raise kind_of_error(f"{path}: schema version {version!r}, this program reads version {SCHEMA_VERSION}")
    if isinstance(content.get("cells"), list):
        content = {**content, "cells": [set_unknown_apart(Cell, cell) for cell in content["cells"]]}
    try:
        study = from_stored(StudyInfo, content)
        cells = tuple(_completed(cell) for cell in study.cells)
        aligned = align_fields(cell.config for cell in cells)
        cells = tuple(replace(cell, config=config) for cell, config in zip(cells, aligned, strict=True))
        if unknown := {name for name in study.factors if name == "seed" or name not in {*FIELDS, *aligned[0]}}:
            raise ValueError(f"factor {sorted(unknown)[0][:80]!r} is no field of a cell's configuration")
    except IncompatibleVersionError as error:
        raise IncompatibleStudyError(f"{path}: {first_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise StudyFolderError(f"{path}: {first_line(error)}") from error
    return replace(study, cells=cells)


def _completed(cell: Cell) -> Cell:
    """The cell with the configuration fields that were added after it was written, at their defaults."""
    try:
        return replace(cell, config=complete_fields(cell.config))
    except ValueError as error:
        raise type(error)(f"cell {cell.cell_id[:80]!r} has {error}") from error
