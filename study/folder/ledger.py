"""The ledger of a study: which trials exist, what state each is in, which are still to run; all of it on disk.

Trials are content-addressed (the hash of configuration and data), so the same command again, more seeds or more cells
always mean: run what is missing. The truth is trials/<id>/; `consolidate` gathers it into the study's record files.
Imports neither torch nor Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records.study_folder import IncompatibleStudyError, StudyFolder, StudyFolderError, check_schema
from study.folder.repair import rebuild_records
from trainable.config import TrialConfig, trial_id
from trainable.errors import first_line
from trainable.files import open_atomically
from trainable.records.tables import SCHEMAS, build_table, conform, widened
from trainable.records.trial_state import (
    RECORD_KINDS,
    IncompatibleStateError,
    TrialState,
    TrialStateError,
    read_state,
    write_state,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ledger:
    """The planned trials of one invocation against what is on disk, in the order of the plan."""

    done: tuple[TrialState, ...]  # completed, diverged or pruned: not run again
    to_run: tuple[TrialState, ...]  # new, interrupted, or failed and to be retried
    left_failed: tuple[TrialState, ...] = ()  # failed and not to be retried

    @property
    def total(self) -> int:
        """Number of planned trials."""
        return len(self.done) + len(self.to_run) + len(self.left_failed)


def open_ledger(
    folder: StudyFolder, configs: Sequence[TrialConfig], data_fingerprint: str, *, retry_failed: bool = True,
    role: str = "grid",
) -> Ledger:  # fmt: skip
    """Sort the planned configurations by what is on disk. Errors: StudyFolderError naming a damaged state file."""
    done, to_run, left_failed = [], [], []
    for config in configs:
        state = load_state(folder, trial_id(config, data_fingerprint))
        if state is None:
            state = TrialState(config=config, data_fingerprint=data_fingerprint, role=role)
        elif state.role != role:  # a checkpoint, from which a state may have been rebuilt, does not know it
            state = replace(state, role=role)
            write_state(folder.trial(state.trial_id), state)
        if state.finished:
            done.append(state)
        elif state.status == "failed" and not retry_failed:
            left_failed.append(state)
        else:
            to_run.append(state)
    return Ledger(tuple(done), tuple(to_run), tuple(left_failed))


def load_state(folder: StudyFolder, trial: str) -> TrialState | None:
    """The state of a trial, None where it never started. Errors: StudyFolderError."""
    try:
        return read_state(folder.trial(trial))
    except IncompatibleStateError as error:
        raise IncompatibleStudyError(str(error)) from error
    except TrialStateError as error:
        raise StudyFolderError(f"{error}; the next start of the study rebuilds it") from error


def register_trials(folder: StudyFolder, states: Iterable[TrialState]) -> None:
    """Write the state of trials that have none yet as pending, and of failed ones as pending again."""
    for state in states:
        if state.attempts == 0 or state.status == "failed":
            write_state(folder.trial(state.trial_id), replace(state, status="pending", reason=None))


def record_node_loss(folder: StudyFolder, trial: str, note: str) -> None:
    """Note in the trial's state that an attempt ended because its node was lost; the trial is pending, not failed."""
    state = load_state(folder, trial)
    if state is None or state.finished:
        return
    write_state(folder.trial(trial), replace(state, status="pending", reason=note, notes=(*state.notes, note)))


def record_failure(folder: StudyFolder, trial: str, reason: str, *, final: bool) -> None:
    """Note in the trial's state that an attempt ended with an error; `final` when it is not tried again."""
    state = load_state(folder, trial)
    if state is None or state.finished:
        return
    failures = (*state.failures, reason)
    status = "failed" if final else "pending"
    write_state(folder.trial(trial), replace(state, status=status, reason=reason, failures=failures))


def list_states(folder: StudyFolder) -> list[TrialState]:
    """The states of all trials of the study, by trial id. Errors: StudyFolderError."""
    ids = sorted(path.name for path in folder.trials.iterdir() if path.is_dir()) if folder.trials.is_dir() else []
    return [state for trial in ids if (state := load_state(folder, trial)) is not None]


def consolidate(folder: StudyFolder) -> list[TrialState]:
    """Gather the states and records of all trials into trials, epochs, steps and layers.parquet; returns the states.

    One trial after the other goes through memory to the disk, one row group each. Records that are damaged or gone are rebuilt from
    the trial's checkpoint; a trial of which that is gone too is pending again. The files have the columns of all trials, whose
    versions may differ: null where a trial has them not. Errors: StudyFolderError.
    """
    order = sorted(list_states(folder), key=lambda state: (state.config.seed, state.trial_id))
    schemas = {kind: SCHEMAS[kind] for kind in RECORD_KINDS}
    while not _write_records(folder, order, schemas):
        pass
    folder.write_records("trials", build_table("trials", [state.to_row() for state in order]))
    return sorted(order, key=lambda state: state.trial_id)


def _write_records(folder: StudyFolder, order: list[TrialState], schemas: dict[str, pa.Schema]) -> bool:
    """Write the records with these columns and bring the states up to date; False where a trial has more: nothing is written
    then, and `schemas` has them too."""
    with suppress(_MoreColumnsError), ExitStack() as stack:
        files = {kind: stack.enter_context(open_atomically(folder.records(kind))) for kind in RECORD_KINDS}
        writers = {kind: stack.enter_context(_open_writer(files[kind], schemas[kind])) for kind in RECORD_KINDS}
        for number, state in enumerate(order):
            order[number], tables = _gather(folder, state)
            for kind, table in tables.items():
                if not set(table.column_names) <= set(schemas[kind].names):
                    schemas[kind] = pa.unify_schemas([schemas[kind], widened(kind, table.schema)])
                    raise _MoreColumnsError
                if table.num_rows:
                    writers[kind].write_table(_conformed(folder, state, kind, table, schemas[kind]))
        return True
    return False


def _conformed(folder: StudyFolder, state: TrialState, kind: str, table: pa.Table, wanted: pa.Schema) -> pa.Table:
    try:
        return conform(table, wanted)
    except (pa.ArrowException, TypeError) as error:  # newer versions that gave one name to two things
        path = folder.trial(state.trial_id) / f"{kind}.parquet"
        raise IncompatibleStudyError(f"{path}: other columns than other trials have ({first_line(error)})") from error


class _MoreColumnsError(Exception):
    """A trial has columns that were not foreseen."""


@contextmanager
def _open_writer(file: IO[bytes], schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A writer of records, closed at the end; after an error it must not close itself once more, into a file that is gone."""
    writer = pq.ParquetWriter(file, schema, compression="zstd")
    try:
        yield writer
        writer.close()
    except BaseException:
        writer.is_open = False
        raise


def _gather(folder: StudyFolder, state: TrialState) -> tuple[TrialState, dict[str, pa.Table]]:
    """A trial's records, rebuilt from its checkpoint where they are damaged or gone, and its state after that."""
    try:
        return state, read_trial_records(folder, state)
    except IncompatibleStudyError:
        raise
    except StudyFolderError as error:
        if state.status == "running":  # it writes them anew with its next checkpoint
            return state, {}
        try:
            now = load_state(folder, state.trial_id)
            if now is not None and now != state:  # its worker has gone on since it was listed
                return _gather(folder, now)
            state = _rebuild(folder, state, str(error))
            return state, read_trial_records(folder, state)
        except (StudyFolderError, OSError) as second:  # one bad trial never ends the study
            _log.warning("%s; it could not be rebuilt: %s", error, second)
            return state, {}


def _rebuild(folder: StudyFolder, state: TrialState, problem: str) -> TrialState:
    path = folder.trial(state.trial_id)
    name, epoch = rebuild_records(path) or (None, 0)
    note = f"{problem}; rebuilt from {name}"
    if name is None:
        note = f"{problem}; no whole checkpoint is left, the trial starts anew"
        for kind in RECORD_KINDS:
            (path / f"{kind}.parquet").unlink(missing_ok=True)
    if epoch < state.epochs_completed:  # the rest has to be trained again
        status = "pending" if state.finished else state.status
        state = replace(state, status=status, reason=note, epochs_completed=epoch, ended_at=None)
    state = replace(state, notes=(*state.notes, note))
    write_state(path, state)
    return state


def read_trial_records(
    folder: StudyFolder, state: TrialState, kinds: Sequence[str] = RECORD_KINDS
) -> dict[str, pa.Table]:
    """The records of a trial by kind, none before its first checkpoint. Errors: StudyFolderError naming the file."""
    tables = {}
    for kind in kinds:
        path = folder.trial(state.trial_id) / f"{kind}.parquet"
        if not path.is_file():
            if state.epochs_completed and state.status != "running":
                raise StudyFolderError(f"{path}: missing")
            continue
        try:
            check_schema(path, kind)
            tables[kind] = pq.read_table(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StudyFolderError(f"{path}: cannot be read ({first_line(error)})") from error
    return tables
