"""What a search may optimise: the files of this package declare objectives, and adding a file adds those that it declares.

Grid files, `--plan`, the journal, pruning, tables and figures follow from the declaration. Searched trials never see the test
set, so nothing that was measured on it can be an objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainable.discovery import discover

if TYPE_CHECKING:
    from analysis.records.study_folder import StudyFolder
    from analysis.results.result_table import ColumnKind
    from trainable.config import TrialConfig

Direction = Literal["maximize", "minimize"]
EpochRow = Mapping[str, Any]


@dataclass(frozen=True)
class CompletedTrial:
    """A searched trial as an objective reads it: `epochs` are its rows of epochs.parquet in order, at least one."""

    config: TrialConfig
    epochs: Sequence[EpochRow]
    folder: StudyFolder


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One number by which trials are compared: of an epoch, so that trials can be pruned by it, or of a whole trial.

    `of_epoch` reads a row of epochs.parquet and may return None where nothing was measured; a trial's objective is that of
    its last epoch. `of_trial` reads a trial that has completed. An objective has one of the two.
    """

    name: str  # in grid files, study.json and the tables' CSV files
    title: str  # in tables and figures
    meaning: str  # what `--plan` and the documentation say of it
    direction: Direction
    kind: ColumnKind = "number"  # its unit, and how it is written
    of_epoch: Callable[[EpochRow], float | None] | None = None
    of_trial: Callable[[CompletedTrial], float] | None = None
    reads_model: bool = False  # `of_trial` reads model.parquet, which is made before the first trial ends

    def __post_init__(self) -> None:
        if (self.of_epoch is None) == (self.of_trial is None):
            raise ValueError(f"objective {self.name!r}: give of_epoch or of_trial")

    def after_epoch(self, row: EpochRow) -> float | None:
        """The finite value after an epoch; None where there is none, or none before a trial's end."""
        value = None if self.of_epoch is None else self.of_epoch(row)
        return float(value) if value is not None and math.isfinite(value) else None

    def measure(self, trial: CompletedTrial) -> float:
        """The value of a completed trial; NaN where nothing was measured."""
        value = self.of_epoch(trial.epochs[-1]) if self.of_epoch else self.of_trial(trial) if self.of_trial else None
        return math.nan if value is None else float(value)


def list_objectives() -> dict[str, Objective]:
    """Every objective, by name."""
    return discover(__name__, Objective)


def find_objective(name: str, direction: Direction) -> Objective:
    """The objective of a search that was made elsewhere, which may have objectives that are not declared here."""

    def read_column(row: EpochRow) -> float | None:
        value = row.get(name)
        return value if isinstance(value, (int, float)) else None

    unknown = Objective(name=name, title=name.replace("_", " "), meaning="", direction=direction, of_epoch=read_column)
    return list_objectives().get(name, unknown)
