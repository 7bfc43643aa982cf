"""A study in a folder; on a cluster one that all nodes share."""

from __future__ import annotations

import tempfile

from analysis.records.study_folder import StudyFolder
from study.spec.errors import SpecError
from study.storage.folder_lock import FolderLock
from study.storage.study_store import StudyStore
from study.storage.trial_storage import FolderTrialStorage


class FolderStore(StudyStore):
    """The study folder itself."""

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
