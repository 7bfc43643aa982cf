"""A study as it is at this moment: the gathered records, and over them what its trials have written since.

The driver gathers records now and then; a trial's own files are newer. Reads only, rebuilds nothing: a file that cannot be read is
named in `complaints`, and what was gathered stands in its place.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.records.frames import Study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.ledger import load_state, read_trial_records
from trainable.errors import first_line
from trainable.records.tables import build_table, conform, widened
from trainable.records.trial_state import STATE_FILE, TrialState

_SLACK_S = 1.0  # file systems tell times to a second


@dataclass(frozen=True)
class LiveTrial:
    """A trial whose own files are newer than the gathered ones."""

    state: TrialState
    records: Mapping[str, pa.Table]


@dataclass(frozen=True)
class LiveStudy(Study):
    """A study whose `newer` trials, by id, take the place of what was gathered of them; layers are the gathered ones."""

    newer: Mapping[str, LiveTrial] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()

    @cached_property
    def _all_trials(self) -> pd.DataFrame:
        rows: pd.DataFrame = build_table("trials", [trial.state.to_row() for trial in self.newer.values()]).to_pandas()
        if not self.folder.records("trials").exists():
            return rows
        return _replace(super()._all_trials, rows, set(self.newer))

    def read_trial_state(self, trial_id: str) -> TrialState | None:
        """A trial's own state, None where there is none that can be read, as in a study that was fetched from elsewhere."""
        if trial_id in self.newer:
            return self.newer[trial_id].state
        try:
            return load_state(self.folder, trial_id)
        except StudyFolderError:
            return None

    def read_trial_epochs(self, trial_id: str) -> pd.DataFrame:
        """The epochs of one trial, of whatever role."""
        found = (self.epochs, self.search_epochs, self.branch_epochs)
        frames = [frame[frame["trial_id"] == trial_id] for frame in found]
        return max(frames, key=len)

    def _read_of_trials(self, kind: str, trials: pd.DataFrame) -> pd.DataFrame:
        gathered = super()._read_of_trials(kind, trials)
        known = set(trials["trial_id"])
        tables = [
            conform(trial.records[kind], widened(kind, trial.records[kind].schema)).to_pandas()
            for trial_id, trial in self.newer.items()
            if trial_id in known and kind in trial.records
        ]
        if not tables:
            return gathered
        found = pd.concat(tables, ignore_index=True)
        return _replace(gathered, found, set(found["trial_id"]))


def read_live_study(folder: StudyFolder) -> LiveStudy:
    """The study as it is now. Errors: StudyFolderError where study.json cannot be read."""
    info = folder.read_study()
    newer, complaints, trial_ids = {}, [], []
    try:
        trial_ids = list_newer_trials(folder)
    except OSError as error:
        complaints.append(f"{folder.trials}: cannot be listed ({first_line(error)})")
    for trial_id in trial_ids:
        try:
            state = load_state(folder, trial_id)
            if state is not None:
                newer[trial_id] = LiveTrial(state, _read_records(folder, state))
        except StudyFolderError as error:
            complaints.append(str(error))
    return LiveStudy(folder, info, newer=newer, complaints=tuple(complaints))


def list_newer_trials(folder: StudyFolder) -> list[str]:
    """The ids of trials that have written something since the records were gathered. Errors: OSError."""
    gathered = folder.records("trials")
    since = gathered.stat().st_mtime - _SLACK_S if gathered.exists() else 0.0
    return [trial_id for trial_id, changed_at in scan_trials(folder).items() if changed_at >= since]


def scan_trials(folder: StudyFolder) -> dict[str, float]:
    """When each trial's state was last written, in seconds since the epoch; links are not followed. Errors: OSError."""
    found = {}
    try:
        paths = sorted(folder.trials.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for path in paths:
        try:
            status = (path / STATE_FILE).lstat()
            if not path.is_symlink() and stat.S_ISREG(status.st_mode):
                found[path.name] = status.st_mtime
        except OSError:
            continue
    return found


def _read_records(folder: StudyFolder, state: TrialState) -> dict[str, pa.Table]:
    """A trial's epochs and steps, as far as its state counts: records are written first."""
    tables = read_trial_records(folder, state, ("epochs", "steps"))
    return {kind: table.filter(pc.field("epoch") <= state.epochs_completed) for kind, table in tables.items()}


def _replace(gathered: pd.DataFrame, newer: pd.DataFrame, trial_ids: set[str]) -> pd.DataFrame:
    """The gathered rows of other trials, and the newer rows of these."""
    kept = gathered[~gathered["trial_id"].isin(trial_ids)]
    if kept.empty:
        return newer
    return pd.concat([kept, newer], ignore_index=True) if len(newer) else kept.reset_index(drop=True)
