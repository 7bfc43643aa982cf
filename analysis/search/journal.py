"""Reading search.journal, Optuna's own storage of a search, without being able to write to it.

The file is JSON lines. They are parsed here and replayed by Optuna's JournalStorage through a backend that cannot append,
takes no lock and creates nothing; no pickle and no code is involved. A last line that is not finished is one that is just
being written. Everything else that does not fit is a StudyFolderError. Knows no records and no pandas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
from optuna.exceptions import OptunaError
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import AfterValidator, ConfigDict, Field

from analysis.records.study_folder import StudyFolderError
from trainable.errors import first_problem

MOST_BYTES = 1 << 30
# What a replay of lines raises that are JSON but not what Optuna writes.
_REPLAY_ERRORS = (
    OptunaError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


def _check_size(value: Any) -> Any:
    if isinstance(value, (int, float)) and not abs(value) < 2**53:
        raise ValueError("not a number to work with")
    return value


Parameter = Annotated[bool | int | float | str | None, AfterValidator(_check_size)]
Epoch = Annotated[int, Field(ge=0, lt=10_000_000)]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(strict=True))
class JournalTrial:
    """One trial as Optuna knows it; `values` are its objectives where it is complete, `curve` the first one by epoch."""

    number: int
    state: str  # COMPLETE, PRUNED, FAIL, RUNNING or WAITING
    parameters: dict[str, Parameter]
    values: tuple[float, ...]
    curve: dict[Epoch, float]
    trial_id: str  # of the records, empty where the trial never started
    reason: str
    enqueued: bool
    seconds: float  # NaN while it runs


@dataclass(frozen=True)
class Journal:
    """One search: `directions` are `maximize` or `minimize`, one per objective; trials by number."""

    directions: tuple[str, ...]
    trials: tuple[JournalTrial, ...]


def read_journal(path: Path, names: Iterable[str]) -> Journal:
    """The search of a study that is called one of `names`. Errors: StudyFolderError in one line."""
    storage = _replay(path)
    studies = {str(study.study_name): study for study in storage.get_all_studies()}
    found = [studies[name] for name in names if name in studies]
    if not found:
        held = ", ".join(map(_short, studies)) or "no study"
        raise StudyFolderError(f"{path}: the search of another study: it holds {held}")
    try:
        trials = [_parse_trial(trial) for trial in storage.get_all_trials(found[0]._study_id)]
        directions = tuple(StudyDirection(direction).name.lower() for direction in found[0].directions)
    except _REPLAY_ERRORS as error:
        reason = first_problem(error) if isinstance(error, pydantic.ValidationError) else error
        raise StudyFolderError(f"{path}: not a search of this project ({_short(reason)})") from error
    if any(len(trial.values) not in (0, len(directions)) for trial in trials):
        raise StudyFolderError(f"{path}: not a search of this project (a trial has another number of objectives)")
    return Journal(directions, tuple(trials))


class _ReadOnlyLines(BaseJournalBackend):
    """The lines of a journal, as JournalStorage asks for them."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        self._entries = entries

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("this journal is only read")


def _replay(path: Path) -> JournalStorage:
    entries = _read_lines(path)
    try:
        return JournalStorage(_ReadOnlyLines(entries))
    except _REPLAY_ERRORS as error:
        raise StudyFolderError(f"{path}: not a journal of Optuna ({_short(error)})") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise StudyFolderError(f"{path}: larger than {MOST_BYTES >> 20} MiB, not the journal of a search")
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise StudyFolderError(f"{path}: missing, but study.json says that the study is a search") from None
    except OSError as error:
        raise StudyFolderError(f"{path}: cannot be read ({error.strerror})") from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise StudyFolderError(f"{path}: line {number} is not JSON ({_short(error)})") from error
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise StudyFolderError(f"{path}: line {number} is not an entry of Optuna's journal")
        entries.append(entry)
    return entries


def _parse_trial(trial: FrozenTrial) -> JournalTrial:
    complete = trial.state == TrialState.COMPLETE
    ended, began = trial.datetime_complete, trial.datetime_start
    trial_id, reason = (trial.user_attrs.get(name) for name in ("trial_id", "reason"))
    return JournalTrial(
        number=int(trial.number),
        state=trial.state.name,
        parameters=trial.params,
        values=tuple(trial.values) if complete and trial.values else (),
        curve=dict(sorted(trial.intermediate_values.items())),
        trial_id=trial_id if isinstance(trial_id, str) else "",
        reason=reason if isinstance(reason, str) else "",
        enqueued="fixed_params" in trial.system_attrs,
        seconds=(ended - began).total_seconds() if ended and began else math.nan,
    )


def _short(text: object) -> str:
    lines = str(text).splitlines() or [type(text).__name__]
    return "".join(c if c.isprintable() else "\ufffd" for c in lines[0][:120])
