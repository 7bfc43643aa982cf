"""A study at a URL: the lock, what a trial puts and in which order, and the driver's working copy. On file:// URLs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.storage import url_lock, url_store
from study.storage.location import find_store
from study.storage.object_store import RemoteFolder, Stamp, StorageError
from study.storage.study_lock import StudyLockedError, watch_driver
from study.storage.trial_storage import FolderTrialStorage, UrlTrialStorage
from study.storage.url_lock import UrlLock, claim_name, read_claim
from study.storage.url_store import UrlStore
from tests.support.images import make_image_data
from trainable.config import TrialConfig, trial_id
from trainable.records.trial_state import read_state
from trainable.trial import Placement, run_trial


@pytest.fixture
def remote(tmp_path: Path) -> RemoteFolder:
    (tmp_path / "store").mkdir()
    return RemoteFolder(f"file://{tmp_path}/store/results/paper")


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return tmp_path / "store/results/paper"


def test_files_go_out_and_come_back(remote: RemoteFolder, stored: Path) -> None:
    assert remote.list() == {}
    assert remote.read("a/b") is None
    remote.write("a/b", b"one")
    remote.write("a/b", b"other")
    remote.write("c", b"")
    assert (stored / "a/b").read_bytes() == b"other"
    assert remote.read("a/b") == b"other"
    assert {name: stamp.size for name, stamp in remote.list().items()} == {"a/b": 5, "c": 0}
    assert list(remote.list("a")) == ["a/b"]
    remote.delete("a/b")
    remote.delete("a/b")
    assert list(remote.list()) == ["c"]


def test_what_a_store_refuses_is_said_with_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("study.storage.object_store._FIRST_PAUSE_S", 0.0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file/study/x"):
        RemoteFolder(f"file://{tmp_path}/file/study").write("x", b"")


def test_a_second_driver_is_refused_until_the_first_has_gone(remote: RemoteFolder) -> None:
    with UrlLock(remote) as lock:
        with pytest.raises(StudyLockedError, match=f"process {os.getpid()}"), UrlLock(remote):
            pass
        assert list(remote.list("drivers")) == [claim_name(lock.token)], "the refused one left nothing"
    assert remote.list() == {}
    with UrlLock(remote):
        pass


def test_the_lock_of_a_dead_driver_is_taken_over(remote: RemoteFolder, stored: Path) -> None:
    with UrlLock(remote) as lock:
        claim = read_claim(remote, lock.token)
    remote.write(claim_name("dead"), json.dumps({**claim, "token": "dead", "process_start": "0"}).encode())
    with UrlLock(remote) as second:
        assert list(remote.list("drivers")) == [claim_name(second.token)]
    elsewhere = json.dumps({**claim, "token": "elsewhere", "machine": "another"}).encode()
    remote.write(claim_name("elsewhere"), elsewhere)
    with pytest.raises(StudyLockedError), UrlLock(remote):
        pass
    old = (stored / claim_name("elsewhere")).stat().st_mtime - UrlLock.stale_after_s - 1
    os.utime(stored / claim_name("elsewhere"), (old, old))
    with UrlLock(remote) as third:
        assert list(remote.list("drivers")) == [claim_name(third.token)]


def test_of_many_drivers_at_once_no_two_hold_the_lock(remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them counts who else is inside while it is."""
    monkeypatch.setattr(url_lock, "_PAUSE_S", 0.02)
    inside, most, entered = 0, 0, 0
    counting, start = threading.Lock(), threading.Barrier(6)

    def drive() -> None:
        nonlocal inside, most, entered
        start.wait()
        for _ in range(10):
            try:
                with UrlLock(remote):
                    with counting:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with counting:
                        inside -= 1
            except StudyLockedError:
                continue

    threads = [threading.Thread(target=drive) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, entered > 0) == (1, True)


def test_a_driver_whose_claim_was_removed_or_is_doubled_has_lost_the_study(
    remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UrlLock, "heartbeat_s", 0.01)
    with UrlLock(remote) as lock:
        remote.delete(claim_name(lock.token))
        lock._heartbeat.join(10)
        assert lock.lost
    with UrlLock(remote) as lock:
        beats = 0
        while not lock.lost and beats < 1000:
            remote.write(claim_name("other"), str(beats).encode() * 2)
            lock._heartbeat.join(0.02)
            beats += 1
        assert lock.lost


def test_trials_hear_that_their_driver_stops_or_is_gone(remote: RemoteFolder) -> None:
    storage = UrlTrialStorage(remote.url)
    for end in ("stop", "leave"):
        stop = threading.Event()
        with UrlLock(remote) as lock:
            token = lock.token
            end_watch = watch_driver(lambda token=token: storage.read_driver(token), token, stop, 0.01)  # type: ignore[misc]
            assert not stop.wait(0.2)
            if end == "stop":
                lock.stop_trials()
                assert stop.wait(10)
        assert stop.wait(10)
        end_watch()


def test_trials_go_on_while_their_storage_does_not_answer(remote: RemoteFolder) -> None:
    """A store that is away for longer than trials wait for a missing driver is no driver that is gone."""
    answers = [StorageError("away")] * 20
    stop, asked = threading.Event(), threading.Event()

    def read() -> dict[str, object]:
        if not answers:
            asked.set()
            return {"token": "t", "stopping": False}
        raise answers.pop()

    end_watch = watch_driver(read, "t", stop, 0.01)
    assert asked.wait(10)
    assert not stop.is_set()
    end_watch()
    with pytest.raises(StorageError):
        UrlTrialStorage("file:///dev/null/nothing").read_driver("t")


def test_a_trial_puts_its_state_last_and_removes_what_is_gone(remote: RemoteFolder) -> None:
    order: list[str] = []

    class Recorded(UrlTrialStorage):
        def write(self, name: str, content: bytes) -> None:
            order.append(name.rpartition("/")[2])
            super().write(name, content)

    storage = Recorded(remote.url)
    with storage.open_trial("t1") as trial:
        assert list(trial.path.iterdir()) == []
        write(trial.path, {"trial.json": '{"attempts": 1}', "epoch-00001.a.ckpt": "1", "epochs.parquet": "e1"})
        trial.save()
        assert order == ["epoch-00001.a.ckpt", "epochs.parquet", "trial.json"]
        trial.save()
        assert len(order) == 3, "nothing has changed"
        (trial.path / "epoch-00001.a.ckpt").unlink()
        write(trial.path, {"epoch-00002.b.ckpt": "2", "trial.json": '{"attempts": 1, "epochs": 2}'})
        trial.save()
    assert order[3:] == ["epoch-00002.b.ckpt", "trial.json"]
    assert set(remote.list("trials/t1")) == {
        f"trials/t1/{name}" for name in ("epoch-00002.b.ckpt", "epochs.parquet", "trial.json")
    }
    with storage.open_trial("t1") as again:
        assert (again.path / "epoch-00002.b.ckpt").read_text() == "2"
        assert again.path.name == "t1"
    assert not again.path.exists()


def test_an_attempt_that_was_given_up_overwrites_nothing(remote: RemoteFolder) -> None:
    storage = UrlTrialStorage(remote.url)
    with storage.open_trial("t1") as lost:
        write(lost.path, {"trial.json": '{"attempts": 1}'})
        lost.save()
        with storage.open_trial("t1") as newer:
            write(newer.path, {"trial.json": '{"attempts": 2}'})
            newer.save()
        write(lost.path, {"trial.json": '{"attempts": 1, "late": true}', "epochs.parquet": "late"})
        with pytest.raises(StorageError, match="another attempt"):
            lost.save()
    assert remote.read("trials/t1/trial.json") == b'{"attempts": 2}'
    assert remote.read("trials/t1/epochs.parquet") is None


def test_a_trial_in_a_shared_folder_works_in_place(tmp_path: Path) -> None:
    with FolderTrialStorage(tmp_path).open_trial("t1") as trial:
        assert trial.path == tmp_path / "trials/t1"


def test_the_working_copy_follows_the_url_and_puts_what_the_driver_writes(
    remote: RemoteFolder, stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(url_store, "_SYNC_INTERVAL_S", 3600.0)
    for name in ("study.json", "trials/t1/trial.json", "trials/t1/epochs.parquet", "trials/t1/epoch-00001.a.ckpt"):
        remote.write(name, name.encode())
    store = find_store(remote.url.rpartition("/")[0], "paper")
    assert isinstance(store, UrlStore)
    store.folder.path.mkdir(parents=True, exist_ok=True)
    (store.folder.path / "stale").write_text("of an earlier driver")
    with store.open():
        copy = {p.relative_to(store.folder.path).as_posix() for p in store.folder.path.rglob("*") if p.is_file()}
        assert copy == {"study.json", "trials/t1/trial.json", "trials/t1/epochs.parquet"}
        os.utime(stored / "study.json", (0, 0))
        write(store.folder.path, {"epochs.parquet": "gathered", "ray/state": "Ray's own"})
        write(store.folder.path / "report", {"index.html": "page"})
        remote.write("trials/t1/trial.json", b"newer")
        remote.write("trials/t2/trial.json", b"second")
        store.fetch()
        assert (store.folder.trial("t1") / "trial.json").read_text() == "newer"
        assert (store.folder.trial("t2") / "trial.json").read_text() == "second"
        write(store.folder.trial("t2"), {"trial.json": "failed"})
        store.put_trial("t2")
    assert (stored / "epochs.parquet").read_text() == "gathered"
    assert (stored / "report/index.html").read_text() == "page"
    assert (stored / "trials/t2/trial.json").read_text() == "failed"
    assert (stored / "trials/t1/epoch-00001.a.ckpt").exists()
    assert not (stored / "ray").exists()
    assert (stored / "study.json").stat().st_mtime == 0, "what was only fetched is not put again"


def test_what_is_gone_since_it_was_listed_or_on_its_way_is_passed_over(
    remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = find_store(remote.url.rpartition("/")[0], "paper")
    for name in ("study.json", ".probe-of-another", "report/index.html.0f.tmp"):
        remote.write(name, b"content")
    list_now = RemoteFolder.list

    def list_late(self: RemoteFolder, folder: str = "") -> dict[str, Stamp]:
        return {**list_now(self, folder), **({} if folder else {"removed.json": Stamp(7, 1)})}

    with monkeypatch.context() as late:
        late.setattr(RemoteFolder, "list", list_late)
        with store.open():
            copied = [path.name for path in store.folder.path.rglob("*") if path.is_file()]
    assert copied == ["study.json"]


def test_a_write_that_is_interrupted_leaves_no_part_of_a_file(remote: RemoteFolder, stored: Path) -> None:
    def interrupt(stream: Any) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote._write("layers.parquet", interrupt)
    assert list(stored.iterdir()) == []


def test_what_the_driver_notes_of_a_trial_is_there_and_not_undone_by_its_copy(
    remote: RemoteFolder, stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While the driver changes a trial's state the thread that keeps the copy current waits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = find_store(remote.url.rpartition("/")[0], "paper")
    assert isinstance(store, UrlStore)
    with store.open():
        remote.write("trials/t1/trial.json", b"of the node")
        others: list[threading.Thread] = []

        def change(folder: StudyFolder) -> None:
            assert (folder.trial("t1") / "trial.json").read_text() == "of the node"
            write(folder.trial("t1"), {"trial.json": "of the driver"})
            others.append(threading.Thread(target=store.fetch))
            others[0].start()
            others[0].join(0.3)
            assert (folder.trial("t1") / "trial.json").read_text() == "of the driver"

        store.change_trial("t1", change)
        others[0].join()
    assert (stored / "trials/t1/trial.json").read_text() == "of the driver"


def test_a_driver_that_lost_its_study_puts_no_journal(
    remote: RemoteFolder, stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = find_store(remote.url.rpartition("/")[0], "paper")
    with store.open() as lock:
        write(store.folder.path, {"search.journal": "first"})
        store.put_file("search.journal")
        (store.folder.path / "search.journal.lock").symlink_to(store.folder.path / "search.journal")
        remote.delete(claim_name(lock.token))
        write(store.folder.path, {"search.journal": "second, of a driver that is taken for dead"})
        with pytest.raises(StorageError, match="another driver"):
            store.put_file("search.journal")
        assert (stored / "search.journal").read_text() == "first"
    assert not (stored / "search.journal.lock").exists()


def test_the_copy_of_a_study_at_a_url_needs_no_room_for_checkpoints(remote: RemoteFolder, tmp_path: Path) -> None:
    configs = [TrialConfig()] * 10
    folder, url = (find_store(results, "paper") for results in (str(tmp_path), remote.url))
    assert folder.disk_bytes(configs) - url.disk_bytes(configs) > 10 * 3 * 80e6


def test_a_file_of_a_folder_url_is_replaced_in_one_step(remote: RemoteFolder, stored: Path, tmp_path: Path) -> None:
    remote.write("state", b"old")
    before = (stored / "state").open("rb")
    (tmp_path / "new").write_bytes(b"new")
    remote.write_file("state", tmp_path / "new")
    assert before.read() == b"old", "a reader that has it open still has the whole old one"
    before.close()
    assert (stored / "state").read_bytes() == b"new"
    assert [path.name for path in stored.iterdir()] == ["state"]


def test_a_store_that_knows_no_times_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = find_store("memory://results", "paper")
    assert isinstance(store, UrlStore)
    with pytest.raises(StorageError, match="does not say when a file was written"):
        store.check_writable("memory://results")


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_damaged_trials_at_a_url_are_repaired_from_their_checkpoints_there(
    remote: RemoteFolder, stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = make_image_data()
    configs = [TrialConfig(dataset="synthetic", width=2, epochs=1, batch_size=32, seed=seed) for seed in range(3)]
    ids = [trial_id(config, data.fingerprint) for config in configs]
    for config, trial in zip(configs, ids, strict=True):
        run_trial(config, data, stored / "trials" / trial, Placement(num_threads=1))
    whole = {trial: pq.read_table(stored / "trials" / trial / "epochs.parquet") for trial in ids}
    (stored / "trials" / ids[0] / "trial.json").write_text("{")
    (stored / "trials" / ids[1] / "epochs.parquet").write_bytes(b"PAR1")
    untouched = (stored / "trials" / ids[2] / "trial.json").stat().st_mtime_ns
    store = find_store(remote.url.rpartition("/")[0], "paper")
    with store.open():
        said = store.repair()
        assert len(said) == 1
        assert "rebuilt from epoch-00001" in said[0]
        assert not list(store.folder.path.rglob("*.ckpt"))
    for trial in ids:
        state = read_state(stored / "trials" / trial)
        assert state is not None
        assert state.status == "completed"
        assert pq.read_table(stored / "trials" / trial / "epochs.parquet").equals(whole[trial])
        assert list((stored / "trials" / trial).glob("*.ckpt"))
    assert (stored / "trials" / ids[2] / "trial.json").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "s3://bucket/x?secret_key=s", "s3://bucket/#s"])
def test_a_url_that_would_write_a_secret_into_the_study_is_refused(url: str) -> None:
    with pytest.raises(StudyFolderError, match="give a plain URL") as refused:
        find_store(url, "paper")
    assert "secret@" not in str(refused.value)
