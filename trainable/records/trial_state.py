"""The state of one trial on disk: trial.json, and the names of the files beside it. Imports no torch.

States: pending (not started, or interrupted and ready to go on), running, completed, diverged, pruned, failed; each
with a reason where one is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trainable.config import TrialConfig, cell_id, trial_id
from trainable.errors import IncompatibleVersionError, first_line
from trainable.files import write_json
from trainable.records.columns import TRIAL_INSTRUMENT_COLUMNS, TRIAL_ROLES, TRIAL_STATUSES
from trainable.records.stored import Stored, from_stored
from trainable.records.tables import config_columns

STATE_FILE = "trial.json"
RECORD_KINDS = ("epochs", "steps", "layers")
CHECKPOINT_INTERVAL_S = 30.0  # between two checkpoints of a trial, where nobody says otherwise
FINISHED = ("completed", "diverged", "pruned")


class TrialStateError(ValueError):
    """A trial.json that cannot be read; the message names the file and the reason."""


class IncompatibleStateError(TrialStateError):
    """A trial.json that only a newer version of this project can read."""


@dataclass(frozen=True)
class TrialState(Stored):
    """Everything about a trial that is not a measurement of its training; columns of the same names in trials."""

    config: TrialConfig
    data_fingerprint: str
    role: str = "grid"
    code_fingerprint: str | None = None
    status: str = "pending"
    reason: str | None = None
    epochs_completed: int = 0
    attempts: int = 0
    failures: tuple[str, ...] = ()  # one reason for each attempt that ended with an error
    notes: tuple[str, ...] = ()  # what else happened, e.g. a damaged checkpoint that was passed over
    hardware: str | None = None
    hostname: str | None = None
    num_threads: int | None = None
    gpu_share: float | None = None
    gpu_ids: str | None = None
    timing_exclusive: bool | None = None
    engine: str | None = None
    preparation_time_s: float | None = None
    torch_version: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    wall_time_s: float = 0.0
    measured: dict[str, float | None] = field(default_factory=dict, hash=False)  # by instruments, once it has completed

    @property
    def trial_id(self) -> str:
        """The id that follows from configuration and data."""
        return trial_id(self.config, self.data_fingerprint)

    @property
    def finished(self) -> bool:
        """True where running it again would train nothing."""
        return self.status in FINISHED

    def to_stored(self) -> dict[str, Any]:
        """The JSON object; `from_stored` reads it."""
        return {**super().to_stored(), "config": self.config.to_dict()}

    def to_row(self) -> dict[str, Any]:
        """The trial's row of the trials records."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NO_COLUMN}
        return {
            "trial_id": self.trial_id,
            "cell_id": cell_id(self.config),
            "seed": self.config.seed,
            "parent_id": trial_id(self.config.parent, self.data_fingerprint) if self.config.branch_epoch else None,
            **config_columns(self.config),
            **values,
            "failures": len(self.failures),
            **{column.name: self.measured.get(column.name) for column in TRIAL_INSTRUMENT_COLUMNS},
        }


_NO_COLUMN = ("config", "notes", "measured", "unknown")


def write_state(folder: Path, state: TrialState) -> None:
    """Replace trial.json in one step."""
    write_json(folder / STATE_FILE, {"trial_id": state.trial_id, **state.to_stored()})


def read_state(folder: Path) -> TrialState | None:
    """The state in a trial's folder, None where there is none yet. Errors: TrialStateError."""
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise TrialStateError(f"{path}: cannot be read ({first_line(error)})") from error
    try:
        return _parse_state(content)
    except IncompatibleVersionError as error:
        raise IncompatibleStateError(f"{path}: {first_line(error)}") from error
    except (ValueError, RecursionError) as error:
        raise TrialStateError(f"{path}: not the state of a trial ({first_line(error)})") from error


def _parse_state(content: Any) -> TrialState:
    claimed = content.pop("trial_id", None) if isinstance(content, dict) else None
    state = from_stored(TrialState, content)
    for name, value in vars(state).items():
        if isinstance(value, (int, float)) and not 0 <= value < 2**31:  # what its column of the records can hold
            raise ValueError(f"{name}={str(value)[:40]} cannot be")
    if state.status not in TRIAL_STATUSES:
        raise ValueError(f"unknown status {state.status[:40]!r}")
    if state.role not in TRIAL_ROLES:
        raise ValueError(f"unknown role {state.role[:40]!r}")
    if claimed != state.trial_id:
        raise ValueError("its configuration does not match its id")
    return state
