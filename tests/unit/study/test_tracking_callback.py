"""The callback and the driver's end of the mirror: nothing of them stops or delays a study, and no key is in them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.air.integrations.wandb import WandbLoggerCallback

from analysis.records.study_folder import StudyFolder
from study.tracking.callback import WandbMirror
from study.tracking.mirror import Mirror

TRIAL: Any = SimpleNamespace(config={"trial": {"trial_id": "t1"}})


class RecordingMirror(Mirror):
    """Keeps the trials that it is to follow."""

    def __init__(self, folder: Path) -> None:
        super().__init__(StudyFolder(folder), "off")
        self.followed: list[str] = []

    def follow(self, trial_id: str) -> None:
        self.followed.append(trial_id)


def test_every_start_of_a_trial_is_passed_on_and_nothing_else(tmp_path: Path) -> None:
    mirror = RecordingMirror(tmp_path)
    callback = WandbMirror(mirror)
    assert isinstance(callback, WandbLoggerCallback)
    callback.setup()
    callback.on_trial_start(1, [], TRIAL)
    callback.on_trial_result(1, [], TRIAL, {"epoch": 1, "config": {"secret": 1}})
    callback.on_trial_recover(1, [], TRIAL)
    callback.on_trial_start(2, [], TRIAL)  # Tune tries again
    callback.on_trial_error(2, [], TRIAL)
    callback.on_trial_complete(2, [], TRIAL)
    callback.on_experiment_end([])
    assert mirror.followed == ["t1", "t1"]


def test_a_writer_that_has_ended_or_stands_still_neither_stops_nor_delays_the_driver(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends at once, since there is no study; then one is stopped as by a machine that swaps."""
    with Mirror(StudyFolder(tmp_path / "study"), "online", "mine") as mirror:
        mirror.start()
        assert mirror._process is not None
        mirror._process.wait(60)
        mirror.follow("t1")
    assert capfd.readouterr().err.count("warning: W&B") == 1
    with Mirror(StudyFolder(tmp_path / "study"), "online", "mine") as mirror:
        mirror.start()
        assert mirror._process is not None
        mirror._process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        for number in range(10_000):
            mirror.follow(f"{number:016x}")
        assert time.monotonic() - started < 10
        mirror._process.send_signal(signal.SIGCONT)
    assert capfd.readouterr().err.count("warning: W&B: its process has stopped reading") == 1


def test_its_pickle_holds_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "f" * 40
    monkeypatch.setenv("WANDB_API_KEY", key)
    callback = WandbMirror(RecordingMirror(tmp_path))
    callback.setup()
    pickled: bytes = cloudpickle.dumps(callback)  # type: ignore[no-untyped-call]
    assert key.encode() not in pickled


def test_a_mirror_that_is_off_starts_nothing_and_writes_nothing(tmp_path: Path) -> None:
    with Mirror(StudyFolder(tmp_path), "off") as mirror:
        mirror.start()
        assert not mirror.started
        mirror.follow("t1")
        mirror.finish()
    assert list(tmp_path.iterdir()) == []


def test_what_wandb_still_writes_when_all_is_over_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The writing process ends at once, since there is no study; then its folder is found to be in use."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def refuse(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with Mirror(StudyFolder(tmp_path / "study"), "online", "mine", shown="s3://bucket/study") as mirror:
        mirror.start()
        assert mirror.started
        monkeypatch.setattr(os, "rmdir", refuse)
        mirror.finish()
    assert [path.name[:6] for path in (tmp_path / "tmp").iterdir()] == ["wandb-"], "it was tried"
    assert "study sync s3://bucket/study" in capfd.readouterr().err


def test_the_driver_imports_wandb_for_a_mirror_only() -> None:
    code = "import sys, study.run, study.driver.experiment, study.tracking.mirror, study.tracking.__main__; print('wandb' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "False"
