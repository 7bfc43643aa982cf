"""The trials of a search: what Optuna's journal says of each, joined with the records that its training left.

Search trials were trained on a part of the training images and scored on the held-out rest; they stand in none of the
tables of cells. Knows nothing of figures and of how a number is printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.records.derivable import Derivable
from analysis.records.frames import FINISHED, Study
from analysis.records.study_folder import StudyFolderError
from analysis.search.journal import Journal, JournalTrial, read_journal
from analysis.search.objectives import Objective, find_objective
from analysis.search.spec import SearchSpec, read_search

_STATUS = {"COMPLETE": FINISHED, "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "pending"}


@dataclass(frozen=True)
class Search(Derivable):
    """A search: its description, its direction per objective and its journal; `trials` has one row per Optuna trial."""

    study: Study
    description: SearchSpec
    journal: Journal

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Columns number, `config.NAME` per searched field, status, reason, source, objective_1 (and 2), epochs, seconds,
        trial_id; objectives are NaN unless the trial completed."""
        records = self.study.search_trials.set_index("trial_id").to_dict("index")
        known: Mapping[Any, Mapping[Any, Any]] = records
        rows = [self._row(trial, known.get(trial.trial_id, {})) for trial in self.journal.trials]
        return pd.DataFrame(rows, columns=self._columns())

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Columns number, epoch, value: the first objective by epoch, from the journal, else from the records."""
        rows = [(t.number, epoch, value) for t in self.journal.trials for epoch, value in t.curve.items()]
        told = {number for number, _, _ in rows}
        numbers = {t.trial_id: t.number for t in self.journal.trials if t.trial_id and t.number not in told}
        epochs = self.study.search_epochs
        for row in epochs[epochs["trial_id"].isin(list(numbers))].to_dict("records"):
            value = self.objectives[0].after_epoch({str(column): cell for column, cell in row.items()})
            if value is not None:
                rows.append((numbers[row["trial_id"]], int(row["epoch"]), value))
        frame = pd.DataFrame(rows, columns=["number", "epoch", "value"]).astype({"value": float})
        known: pd.DataFrame = frame[np.isfinite(frame["value"])]
        return known.sort_values(["number", "epoch"], ignore_index=True)

    @cached_property
    def points(self) -> pd.DataFrame:
        """`trials` with the columns value, the first objective or else what was reported last of it, and enqueued."""
        last = self.curves.groupby("number")["value"].last().reindex(self.trials["number"]).to_numpy(dtype=float)
        final = self.trials["objective_1"].to_numpy(dtype=float)
        value = np.where(np.isfinite(final), final, last)
        return self.trials.assign(value=value, enqueued=self.trials["source"] == "enqueued")

    @cached_property
    def completed(self) -> pd.DataFrame:
        """The rows of `points` with a finite value of every objective."""
        values = self.points[self.objective_columns].to_numpy(dtype=float)
        done: pd.DataFrame = self.points[np.isfinite(values).all(axis=1)]
        return done

    @property
    def ranked(self) -> pd.DataFrame:
        """`completed`, the best by the first objective first."""
        return self.completed.sort_values(["objective_1", "number"], ascending=[self.is_better() < 0, True])

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What was optimised, as declared."""
        return tuple(
            find_objective(name, "maximize" if self.is_better(place) > 0 else "minimize")
            for place, name in enumerate(self.description.objectives)
        )

    @property
    def objective_columns(self) -> list[str]:
        """The columns of `trials` that hold the objectives."""
        return [f"objective_{place}" for place in range(1, len(self.description.objectives) + 1)]

    @property
    def parameter_columns(self) -> dict[str, str]:
        """The searched fields and their columns in `trials`."""
        return {name: f"config.{name}" for name in self.description.space}

    def title(self, objective: int = 0) -> str:
        """An objective's name in words."""
        return self.objectives[objective].title

    def is_better(self, objective: int = 0) -> int:
        """1 where more of the objective is better, -1 where less is."""
        return 1 if self.journal.directions[objective] == "maximize" else -1

    def _columns(self) -> list[str]:
        return [
            "number", *self.parameter_columns.values(), "status", "reason", "source", *self.objective_columns, "epochs",
            "seconds", "trial_id",
        ]  # fmt: skip

    def _row(self, trial: JournalTrial, record: Mapping[Any, Any]) -> dict[str, Any]:
        status = _STATUS[trial.state]
        if status == "failed" and record.get("status") == "diverged":
            status = "diverged"
        seconds = record.get("wall_time_s")
        parameters = {
            column: trial.parameters.get(name, record.get(column)) for name, column in self.parameter_columns.items()
        }
        values = dict(zip(self.objective_columns, trial.values, strict=False))
        return {
            "number": trial.number, **parameters, "status": status,
            "reason": trial.reason or (record["reason"] if isinstance(record.get("reason"), str) else ""),
            "source": "enqueued" if trial.enqueued else "sampled",
            **{column: values.get(column, math.nan) for column in self.objective_columns},
            "epochs": int(record.get("epochs_completed") or max(trial.curve, default=0)),
            "seconds": float(seconds) if seconds is not None else trial.seconds, "trial_id": trial.trial_id,
        }  # fmt: skip


def load_search(study: Study) -> Search:
    """The search of a study, read once. Errors: ValueError where it has none, StudyFolderError where its journal is damaged or foreign."""
    if study.info.search is None:
        raise ValueError(f"study {study.info.name!r} has no search")
    return study.derive(_read_search)


def _read_search(study: Study) -> Search:
    try:
        description = read_search(study.info.search or {})
    except ValueError as error:
        raise StudyFolderError(f"{study.folder.study_json}: field 'search': {error}") from error
    names = dict.fromkeys((study.info.name, study.folder.path.name))
    journal = read_journal(study.folder.search_journal, names)
    if len(journal.directions) != len(description.objectives):
        raise StudyFolderError(
            f"{study.folder.search_journal}: has {len(journal.directions)} objectives, study.json {len(description.objectives)}"
        )
    return Search(study, description, journal)


def best_so_far(search: Search, objective: int = 0) -> pd.DataFrame:
    """Columns number, value: the best objective of all trials up to each completed one, in the order of their numbers."""
    done = search.completed.sort_values("number")
    values = done[search.objective_columns[objective]]
    best = values.cummax() if search.is_better(objective) > 0 else values.cummin()
    return pd.DataFrame({"number": done["number"].to_numpy(), "value": best.to_numpy(dtype=float)})


def find_front(search: Search) -> pd.Series[bool]:
    """For each completed trial whether no other is at least as good in every objective and better in one."""
    signs = [search.is_better(place) for place in range(len(search.objective_columns))]
    values = search.completed[search.objective_columns].to_numpy(dtype=float) * signs
    as_good = (values[:, None, :] >= values[None, :, :]).all(axis=2)
    better = (values[:, None, :] > values[None, :, :]).any(axis=2)
    return pd.Series(~(as_good & better).any(axis=0), index=search.completed.index)
