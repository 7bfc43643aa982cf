"""study.json: what a study asks, with its cells, and the errors of a folder that cannot be read.

It may come from someone else, or from an older or newer version: it is checked on reading, what it lacks has its default, and
what only a newer version knows is kept. Knows no folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.records.factors import align_fields
from trainable.config import FIELDS, complete_fields
from trainable.errors import IncompatibleVersionError, first_line
from trainable.records.stored import Stored, from_stored, set_unknown_apart
from trainable.records.tables import SCHEMA_VERSION

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
