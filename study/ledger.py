"""The ledger of a study: which trials exist, what state each is in, which are still to run; all of it on disk.

Trials are content-addressed (the hash of configuration and data), so the same command again, more seeds or more cells
always mean: run what is missing. The truth is trials/<id>/; `consolidate` gathers it into the study's record files.
Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from analysis.study_folder import StudyFolder, StudyFolderError, check_schema
from trainable.config import TrialConfig, trial_id
from trainable.files import write_atomically
from trainable.records import SCHEMAS, build_table
from trainable.trial_state import RECORD_KINDS, TrialState, TrialStateError, read_state, write_state


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
    folder: StudyFolder, configs: Sequence[TrialConfig], data_fingerprint: str, *, retry_failed: bool = True
) -> Ledger:
    """Sort the planned configurations by what is on disk. Errors: StudyFolderError naming a damaged state file."""
    done, to_run, left_failed = [], [], []
    for config in configs:
        state = load_state(folder, trial_id(config, data_fingerprint))
        if state is None:
            state = TrialState(config=config, data_fingerprint=data_fingerprint)
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
    except TrialStateError as error:
        raise StudyFolderError(f"{error}; remove that trial's folder to train it again") from error


def register_trials(folder: StudyFolder, states: Iterable[TrialState]) -> None:
    """Write the state of trials that have none yet as pending, and of failed ones as pending again."""
    for state in states:
        if state.attempts == 0 or state.status == "failed":
            write_state(folder.trial(state.trial_id), replace(state, status="pending", reason=None))


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

    One trial after the other goes through memory, one row group each. Errors: StudyFolderError naming a damaged file.
    """
    states = list_states(folder)
    order = sorted(states, key=lambda state: (state.config.seed, state.trial_id))
    for kind in RECORD_KINDS:
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, SCHEMAS[kind], compression="zstd") as writer:
            for state in order:
                path = folder.trial(state.trial_id) / f"{kind}.parquet"
                if path.exists() and (table := _read_trial_records(path, kind)).num_rows:
                    writer.write_table(table)
        write_atomically(folder.records(kind), sink.getvalue())
    folder.write_records("trials", build_table("trials", [state.to_row() for state in order]))
    return states


def _read_trial_records(path: Path, kind: str) -> pa.Table:
    try:
        check_schema(path, kind)
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise StudyFolderError(f"{path}: cannot be read ({error})") from error
