"""Where the trials of a study keep their files: a folder that driver and nodes share, or a URL that all of them can reach.

Sent to the nodes with every trial. In a shared folder a trial works in it. At a URL it works in a scratch folder of its node:
its files are fetched before it starts, and put back after each save, the checkpoint first and the state last, so that the URL
never names what is not there; a node may vanish at any moment. Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from study.storage.folder_lock import LOCK_FILE, read_lock_strictly
from study.storage.object_store import RemoteFolder, Stamp, StorageError
from study.storage.url_lock import read_claim_strictly
from trainable.files import write_atomically
from trainable.records.trial_state import STATE_FILE

TRIALS = "trials"


@dataclass(frozen=True)
class TrialFolder:
    """The folder in which a trial works on its node, and what to call after each of its saves."""

    path: Path
    save: Callable[[], None]


class TrialStorage(Protocol):
    """What a node needs of a study's storage."""

    @property
    def poll_interval_s(self) -> float:
        """How often a trial asks whether its driver still wants it."""

    def read_driver(self, token: str) -> dict[str, Any]:
        """The lock of the driver with this token, empty where it is not there. Errors: OSError where the storage does not answer."""

    def open_trial(self, trial_id: str) -> Any:
        """A context manager that yields the TrialFolder of a trial."""

    def read(self, name: str) -> bytes | None:
        """A file of the study; None where there is none. Errors: OSError."""

    def write(self, name: str, content: bytes) -> None:
        """Replace a file of the study. Errors: OSError."""

    def delete(self, name: str) -> None:
        """Remove a file of the study. Errors: OSError."""


@dataclass(frozen=True)
class FolderTrialStorage:
    """A study folder that driver and nodes see at the same path."""

    study_folder: Path
    poll_interval_s = 0.5

    def __str__(self) -> str:
        return str(self.study_folder)

    def read_driver(self, token: str) -> dict[str, Any]:
        """The lock in the study folder."""
        return read_lock_strictly(self.study_folder / LOCK_FILE)

    @contextmanager
    def open_trial(self, trial_id: str) -> Iterator[TrialFolder]:
        """The trial's own folder: what it writes there is saved."""
        yield TrialFolder(self.study_folder / TRIALS / trial_id, lambda: None)

    def read(self, name: str) -> bytes | None:
        """See TrialStorage."""
        path = self.study_folder / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, content: bytes) -> None:
        """See TrialStorage."""
        write_atomically(self.study_folder / name, content)

    def delete(self, name: str) -> None:
        """See TrialStorage."""
        (self.study_folder / name).unlink(missing_ok=True)


class UrlTrialStorage(RemoteFolder):
    """A study at a URL."""

    poll_interval_s = 2.0

    def read_driver(self, token: str) -> dict[str, Any]:
        """The driver's claim."""
        return read_claim_strictly(self, token)

    @contextmanager
    def open_trial(self, trial_id: str) -> Iterator[TrialFolder]:
        """A scratch folder with the trial's files, gone afterwards. Errors: StorageError."""
        with tempfile.TemporaryDirectory(prefix="trial-") as scratch:
            folder = Path(scratch) / trial_id
            folder.mkdir()
            for name in self.list(f"{TRIALS}/{trial_id}"):
                if (content := self.read(name)) is not None:
                    (folder / name.rpartition("/")[2]).write_bytes(content)
            yield TrialFolder(folder, _TrialUpload(self, trial_id, folder).save)


class _TrialUpload:
    """Puts what changed in a trial's scratch folder to its URL."""

    def __init__(self, remote: RemoteFolder, trial_id: str, folder: Path) -> None:
        self._remote, self._at, self._folder = remote, f"{TRIALS}/{trial_id}", folder
        self._put = self._stamps()

    def save(self) -> None:
        """Put what is new or changed: checkpoints, records, state; then remove what is gone here. Errors: StorageError."""
        stamps = self._stamps()
        changed = [name for name in stamps if self._put.get(name) != stamps[name]]
        if not changed:
            return
        self._check_not_superseded()
        for name in sorted(changed, key=_order):
            self._remote.write(f"{self._at}/{name}", (self._folder / name).read_bytes())
        for name in set(self._put) - set(stamps):
            self._remote.delete(f"{self._at}/{name}")
        self._put = stamps

    def _stamps(self) -> dict[str, Stamp]:
        return {path.name: Stamp.of(path) for path in self._folder.iterdir() if not path.name.startswith(".")}

    def _check_not_superseded(self) -> None:
        """A node that was given up for lost may come back: its trial has started elsewhere and must not be overwritten."""
        own, there = (_attempts(content) for content in (
            (self._folder / STATE_FILE).read_bytes(), self._remote.read(f"{self._at}/{STATE_FILE}")
        ))  # fmt: skip
        if there > own:
            raise StorageError(f"{self._remote.url}/{self._at}: another attempt has taken this trial over")


def _order(name: str) -> tuple[int, str]:
    return (2 if name == STATE_FILE else 1 if name.endswith(".parquet") else 0, name)


def _attempts(content: bytes | None) -> int:
    try:
        return int(json.loads(content or b"{}").get("attempts", 0))
    except (ValueError, AttributeError, TypeError):
        return 0
