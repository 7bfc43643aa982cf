"""Where a study lives, as its driver works with it: a folder, or a URL with a working copy here. Imports neither torch nor Ray."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from analysis.records.study_folder import StudyFolder
from study.folder.repair import repair_study
from study.plan.estimate import disk_bytes
from study.spec.errors import SpecError
from study.storage.folder_lock import FolderLock
from study.storage.study_lock import StudyLock
from study.storage.trial_storage import FolderTrialStorage, TrialStorage
from trainable.config import TrialConfig


class StudyStore(ABC):
    """A study and its trials. `folder` is what the driver reads and writes; `trial_storage` is sent to the nodes.

    What moves files between `folder` and the study does nothing here: in a folder they are the same.
    """

    is_remote = False  # True where what a trial saves travels over a network

    def __init__(self, folder: StudyFolder, trial_storage: TrialStorage) -> None:
        self.folder = folder
        self.trial_storage = trial_storage

    @property
    @abstractmethod
    def shown(self) -> str:
        """Where the study lives, for people."""

    @abstractmethod
    def open(self) -> AbstractContextManager[StudyLock]:
        """The right to work on the study, with a `folder` that is current. Errors: StudyLockedError, StorageError."""

    @abstractmethod
    def check_writable(self, results: str) -> None:
        """Refuse a store that cannot be written, `results` to the user, and leave nothing behind. Errors: SpecError, StorageError."""

    def disk_bytes(self, configs: Iterable[TrialConfig]) -> int:
        """The room that these trials need on the disk of `folder`."""
        return disk_bytes(configs)

    def repair(self) -> list[str]:
        """`repair_study`, and what it did. Errors: StudyFolderError, StorageError."""
        return repair_study(self.folder)

    def fetch(self) -> None:
        """Bring what trials wrote into `folder`. Errors: StorageError."""
        return

    def fetch_trial(self, trial_id: str) -> None:
        """Bring the records and the state of one trial into `folder`. Errors: StorageError."""
        return

    def put_file(self, name: str) -> None:
        """Put a file of `folder` that the next driver cannot do without. Errors: StorageError."""
        return

    def put_trial(self, trial_id: str) -> None:
        """Put the state that the driver wrote for a trial that does not run. Errors: StorageError."""
        return

    def change_trial(self, trial_id: str, change: Callable[[StudyFolder], None]) -> None:
        """Let `change` write into the folder of a trial that does not run. Errors: StorageError."""
        change(self.folder)


class FolderStore(StudyStore):
    """A study in a folder; on a cluster one that all nodes share."""

    def __init__(self, folder: StudyFolder) -> None:
        super().__init__(folder, FolderTrialStorage(folder.path))

    @property
    def shown(self) -> str:
        return str(self.folder.path)

    def open(self) -> FolderLock:
        return FolderLock(self.folder.path)

    def check_writable(self, results: str) -> None:
        existing = next(path for path in self.folder.path.parents if path.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise SpecError(f"--results {results}: {existing} is not writable ({error.strerror})") from error
