"""One driver per study folder, with real processes: refusal, stale locks, and the stop signal that trials see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from study.storage import study_lock
from study.storage.folder_lock import LOCK_FILE, FolderLock, read_lock
from study.storage.study_lock import StudyLockedError, watch_driver

HOLD = "import sys, time; from pathlib import Path; from study.storage.folder_lock import FolderLock\n" \
       "with FolderLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip


def hold_in_another_process(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_driver_is_refused_with_host_process_and_start(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    try:
        with pytest.raises(StudyLockedError, match=f"process {process.pid}, since 20"), FolderLock(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists(), "the refused one leaves the lock alone"
    finally:
        process.kill()
        process.wait()


def test_the_lock_of_a_killed_driver_is_taken_over(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with FolderLock(tmp_path) as lock:
        assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == lock.token
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_was_given_to_another_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        content = json.loads((tmp_path / LOCK_FILE).read_text())
    content["process_start"] = "1"  # this very process id, but of a process that started at boot
    (tmp_path / LOCK_FILE).write_text(json.dumps(content))
    with FolderLock(tmp_path):
        pass


def test_a_lock_of_another_host_holds_until_its_heartbeat_is_old(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started_at": "then", "token": "t"}))
    with pytest.raises(StudyLockedError, match="host elsewhere, process 1, since then"), FolderLock(tmp_path):
        pass
    old = time.time() - FolderLock.stale_after_s - 1
    os.utime(path, (old, old))
    with FolderLock(tmp_path):
        pass


def test_a_half_written_lock_holds_until_it_is_old(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"host": ')
    with pytest.raises(StudyLockedError, match="unknown"), FolderLock(tmp_path):
        pass


def test_the_heartbeat_keeps_the_lock_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderLock, "heartbeat_s", 0.05)
    with FolderLock(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK_FILE).stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("ending", ["stopping", "released", "taken over", "folder removed"])
def test_trials_are_told_when_their_driver_ends(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "study"
    stop = threading.Event()
    with FolderLock(folder) as lock:
        end_watch = watch_driver(lambda: read_lock(folder / LOCK_FILE), lock.token, stop, interval_s=0.01)
        assert not stop.wait(0.2), "a living driver does not stop its trials"
        if ending == "stopping":
            lock.stop_trials()
        elif ending == "taken over":
            (folder / LOCK_FILE).write_text(json.dumps({"token": "other"}))
        elif ending == "folder removed":
            (folder / LOCK_FILE).unlink()
            folder.rmdir()
        if ending != "released":
            assert stop.wait(10)
    assert stop.wait(10)
    end_watch()


def test_many_drivers_at_once_one_gets_the_lock(tmp_path: Path) -> None:
    """A stale lock is there and several take it over at the same time."""
    (tmp_path / LOCK_FILE).write_text(
        json.dumps({"machine": study_lock._machine(), "pid": 2**22 + 1, "process_start": "9"})
    )
    got: list[str] = []
    refused: list[StudyLockedError] = []
    barrier = threading.Barrier(8)

    def attempt() -> None:
        barrier.wait()
        try:
            with FolderLock(tmp_path) as lock:
                got.append(lock.token)
                held.wait()
        except StudyLockedError as error:
            refused.append(error)
            if len(refused) == 7:
                held.set()

    held = threading.Event()
    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert (len(got), len(refused)) == (1, 7)


def test_a_driver_whose_lock_was_taken_over_notices_and_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended for so long that another one took its lock for stale."""
    monkeypatch.setattr(FolderLock, "heartbeat_s", 0.02)
    with FolderLock(tmp_path) as lock:
        other = json.dumps({"token": "other"})
        (tmp_path / LOCK_FILE).write_text(other)
        wait_until(lambda: lock.lost)
        lock.stop_trials()
        assert (tmp_path / LOCK_FILE).read_text() == other
    assert (tmp_path / LOCK_FILE).read_text() == other


def test_a_driver_whose_folder_was_removed_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderLock, "heartbeat_s", 0.02)
    with FolderLock(tmp_path / "study") as lock:
        (tmp_path / "study" / LOCK_FILE).unlink()
        (tmp_path / "study").rmdir()
        wait_until(lambda: lock.lost)
        lock.stop_trials()
    assert list(tmp_path.iterdir()) == [], "nothing of it comes back"


def test_a_refused_study_leaves_no_folder_and_a_present_one_stays(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    with FolderLock(tmp_path / "there"):
        pass
    assert (tmp_path / "there").is_dir()


def test_the_same_process_id_elsewhere_says_nothing(tmp_path: Path) -> None:
    """Containers share host names and process ids: only the heartbeat counts between them."""
    content = {"host": os.uname().nodename, "machine": "another", "pid": 2**22 + 1, "process_start": "9"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(content))
    with pytest.raises(StudyLockedError), FolderLock(tmp_path):
        pass


def test_trials_end_when_the_process_of_their_driver_is_gone(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path)
    stop = threading.Event()
    token = json.loads((tmp_path / LOCK_FILE).read_text())["token"]
    end_watch = watch_driver(lambda: read_lock(tmp_path / LOCK_FILE), token, stop, interval_s=0.01)
    assert not stop.wait(0.2)
    process.kill()
    process.wait()
    assert stop.wait(10), "the lock is still there, and nobody took it over"
    end_watch()


@pytest.mark.parametrize("content", ['{"token": "a/../\\u0000b"}', "[" * 100_000, "[]", '{"pid": "x"}', "\ud800"])
def test_a_hostile_lock_is_taken_over_when_it_is_old(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(StudyLockedError), FolderLock(tmp_path):
        pass
    os.utime(tmp_path / LOCK_FILE, (1, 1))
    with FolderLock(tmp_path):
        assert [path.name for path in tmp_path.iterdir() if "driver" not in path.name] == []


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
