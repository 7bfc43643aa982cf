"""A study at a URL, and the working copy of it that its driver reads and writes.

The copy holds all that analysis reads, no checkpoints; it is made anew by every driver, kept current while trials run, and what
the driver writes is put to the URL. A trial's state is fetched before its records, and written into the copy after them: so the
records of a copy are never older than its state. Imports neither torch nor Ray.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.sources.pull import copy_path
from study.folder.ledger import consolidate, read_trial_records
from study.folder.repair import repair_study
from study.plan.estimate import disk_bytes
from study.storage.object_store import Stamp, StorageError
from study.storage.study_store import StudyStore
from study.storage.trial_storage import TRIALS, UrlTrialStorage
from study.storage.url_lock import CLAIMS, UrlLock, read_claim
from trainable.config import TrialConfig
from trainable.files import write_atomically
from trainable.records.trial_state import STATE_FILE, TrialStateError, read_state

_SYNC_INTERVAL_S = 15.0
_NOT_COPIED = (TRIALS, CLAIMS, "ray", "wandb")
_log = logging.getLogger(__name__)


class UrlStore(StudyStore):
    """A study at a URL; `folder` is its working copy on this machine."""

    is_remote = True

    def __init__(self, url: str) -> None:
        self.remote = UrlTrialStorage(url)
        super().__init__(StudyFolder(_copy_path(url)), self.remote)
        self._fetched: dict[str, Stamp] = {}
        self._put: dict[str, Stamp] = {}
        self._fetching = threading.RLock()  # of files of trials
        self._putting = threading.Lock()  # of a single file, so that Tune's loop waits for one upload at most
        self._lock: UrlLock | None = None

    @property
    def shown(self) -> str:
        return self.remote.url

    def disk_bytes(self, configs: Iterable[TrialConfig]) -> int:
        """The room that these trials need on the disk of the copy, which holds no checkpoints."""
        return disk_bytes(configs, checkpoints=0)

    @contextmanager
    def open(self) -> Iterator[UrlLock]:
        """The right to work on the study, with a copy that is current at first; what changed here is put at the end.

        Errors: StudyLockedError, StorageError.
        """
        with UrlLock(self.remote) as lock:
            self._lock = lock
            shutil.rmtree(self.folder.path, ignore_errors=True)
            self.folder.path.mkdir(parents=True)
            self.fetch()
            ended = threading.Event()
            thread = threading.Thread(target=self._keep_current, args=(ended,), name="copy-of-study", daemon=True)
            thread.start()
            try:
                yield lock
            finally:
                ended.set()
                thread.join()
                self.put()

    def repair(self) -> list[str]:
        """`repair_study`, with the checkpoints of damaged trials at hand; what it did is put to the URL."""
        damaged = [trial for trial in self._list_trials() if self._is_damaged(trial)]
        for trial in damaged:
            for name in self.remote.list(f"{TRIALS}/{trial}"):
                self._bring(name)
        done = repair_study(self.folder)
        if damaged:
            consolidate(self.folder)  # it rebuilds records
        for trial in damaged:
            self._replace_trial(trial)
        return done

    def _list_trials(self) -> list[str]:
        return [path.name for path in self.folder.trials.iterdir()] if self.folder.trials.is_dir() else []

    def _is_damaged(self, trial: str) -> bool:
        try:
            state = read_state(self.folder.trial(trial))
            if state is not None:
                read_trial_records(self.folder, state)
        except (TrialStateError, StudyFolderError):
            return True
        return state is None

    def _replace_trial(self, trial: str) -> None:
        """Put a repaired trial's files, and let go of its checkpoints here."""
        for path in self.folder.trial(trial).iterdir():
            if path.suffix == ".ckpt":
                path.unlink()
            elif not path.name.startswith("."):
                self.remote.write(f"{TRIALS}/{trial}/{path.name}", path.read_bytes())
        if not (self.folder.trial(trial) / STATE_FILE).exists():
            self.remote.delete(f"{TRIALS}/{trial}/{STATE_FILE}")

    def fetch(self) -> None:
        """Bring what is new at the URL here. Errors: StorageError."""
        with self._fetching:
            found = self.remote.list()
            for name in found:
                known = name in self._put or _is_passing(name)  # what this driver wrote is its own
                if name.split("/")[0] not in _NOT_COPIED and not known and self._bring(name):
                    self._put[name] = self._stamp(name)
            states = [name for name in found if name.startswith(f"{TRIALS}/") and name.endswith(f"/{STATE_FILE}")]
            changed = [name for name in states if self._fetched.get(name) != found[name]]
        for name in changed:
            self.fetch_trial(name.split("/")[1])
            self._fetched[name] = found[name]  # as it was before it was read: a later one is fetched again

    def fetch_trial(self, trial_id: str) -> None:
        """Bring a trial's records and state here. Errors: StorageError."""
        with self._fetching:
            at = f"{TRIALS}/{trial_id}"
            state = self.remote.read(f"{at}/{STATE_FILE}")
            if state is None:
                return
            for name in self.remote.list(at):
                if name.endswith(".parquet"):  # all of them: the stamps of many stores know whole seconds only
                    self._bring(name)
            write_atomically(self.folder.path / at / STATE_FILE, state)

    def put(self) -> None:
        """Copy every file that the driver has changed to the URL, but none of a trial. Errors: StorageError.

        Nothing more is copied once another driver has taken the study over.
        """
        top = (path for path in self.folder.path.iterdir() if path.name not in _NOT_COPIED)
        for path in (file for entry in top for file in ([entry] if entry.is_file() else sorted(entry.rglob("*")))):
            # Optuna's lock of its journal is a link.
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                if self._lock is not None and self._lock.lost:
                    return
                self._put_changed(path.relative_to(self.folder.path).as_posix())

    def put_file(self, name: str) -> None:
        """Put a file that the next driver cannot do without. Errors: StorageError, also where another driver has taken over."""
        if self._lock is not None and not read_claim(self.remote, self._lock.token):
            raise StorageError(
                f"{self.remote.url}: another driver has taken the study over, or the store does not answer"
            )
        self._put_changed(name)

    def _put_changed(self, name: str) -> None:
        with self._putting:
            if self._put.get(name) != (stamp := self._stamp(name)):
                self.remote.write_file(name, self.folder.path / name)
                self._put[name] = stamp

    def put_trial(self, trial_id: str) -> None:
        """Put the state that the driver wrote for a trial that does not run. Errors: StorageError."""
        name = f"{TRIALS}/{trial_id}/{STATE_FILE}"
        self.remote.write(name, (self.folder.path / name).read_bytes())

    def change_trial(self, trial_id: str, change: Callable[[StudyFolder], None]) -> None:
        """Let `change` write into the copy of a trial that does not run, and put its state. Errors: StorageError."""
        with self._fetching:
            self.fetch_trial(trial_id)
            change(self.folder)
            self.put_trial(trial_id)

    def check_writable(self, results: str) -> None:
        """Write, read, list and remove a file at the URL. Errors: StorageError."""
        name = f".probe-{secrets.token_hex(8)}"
        self.remote.write(name, b"probe")
        found, stamp = self.remote.read(name), self.remote.list().get(name)
        self.remote.delete(name)
        if stamp is not None and not stamp.time_ns:
            raise StorageError(
                f"{self.remote.url}: this store does not say when a file was written, without which a driver that is gone "
                "cannot be told from one that works; choose another"
            )
        if found != b"probe":
            raise StorageError(f"{self.remote.url}: what is written there cannot be read back")

    def _stamp(self, name: str) -> Stamp:
        return Stamp.of(self.folder.path / name)

    def _bring(self, name: str) -> bool:
        """Fetch one file; False where it is gone since it was listed."""
        if (content := self.remote.read(name)) is None:
            return False
        write_atomically(self.folder.path / name, content)
        return True

    def _keep_current(self, ended: threading.Event) -> None:
        while not ended.wait(_SYNC_INTERVAL_S):
            try:
                self.fetch()
                self.put()
            except OSError as error:
                _log.warning("the copy of the study is not current: %s", error)


def _is_passing(name: str) -> bool:
    """A probe, or a file that is being written beside the one it replaces: it is gone in a moment."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.endswith(".tmp")


def _copy_path(url: str) -> Path:
    """The working copy's folder: the same one for the same URL, in the user's cache or, without a home, in a temporary one."""
    path = copy_path("studies", url)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="study-")) / path.name
    return path
