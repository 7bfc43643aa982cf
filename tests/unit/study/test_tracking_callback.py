"""The callback: nothing of it reaches Tune, neither an exception nor a key, and without a mirror there is none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
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
REPORT = {
    "epoch": 1, "step": 4, "train_loss": 1.0, "train_accuracy": 0.5, "test_loss": 1.0, "test_accuracy": 0.5,
    "train_time_s": 2.0, "config": {"secret": 1}, "step_series": [{"step": 0, "batch_loss": 2.0}],
}  # fmt: skip


class RecordingMirror(Mirror):
    """Keeps what is posted, or fails in a way that nobody foresaw."""

    def __init__(self, folder: Path, *, broken: bool = False) -> None:
        super().__init__(StudyFolder(folder), "off")
        self.posted: list[Any] = []
        self.warnings: list[str] = []
        self._broken = broken

    def post_epoch(self, *message: Any) -> None:
        if self._broken:
            raise RuntimeError("unforeseen")
        self.posted.append(message)

    def post_end(self, trial_id: str) -> None:
        self.posted.append(trial_id)

    def warn(self, reason: str) -> None:
        self.warnings.append(reason)


def test_a_report_is_passed_on_with_its_step_series_and_nothing_else(tmp_path: Path) -> None:
    mirror = RecordingMirror(tmp_path)
    callback = WandbMirror(mirror)
    assert isinstance(callback, WandbLoggerCallback)
    callback.setup()
    callback.on_trial_start(1, [], TRIAL)
    callback.on_trial_result(1, [], TRIAL, REPORT)
    callback.on_trial_result(1, [], TRIAL, {"done": True})  # Tune's own last result
    callback.on_trial_complete(1, [], TRIAL)
    callback.on_experiment_end([])
    epoch = {
        name: REPORT[name] for name in ("epoch", "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    }
    assert mirror.posted == [("t1", epoch, REPORT["step_series"]), "t1"]


def test_an_exception_never_reaches_tune(tmp_path: Path) -> None:
    mirror = RecordingMirror(tmp_path, broken=True)
    callback = WandbMirror(mirror)
    callback.on_trial_result(1, [], TRIAL, REPORT)
    no_trial: Any = SimpleNamespace(config={})
    callback.on_trial_error(1, [], no_trial)
    assert len(mirror.warnings) == 2
    assert "unforeseen" in mirror.warnings[0]


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
        mirror.post_epoch("t1", {}, [])
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
    assert "python -m study.tracking sync s3://bucket/study" in capfd.readouterr().err


def test_the_driver_imports_wandb_for_a_mirror_only() -> None:
    code = "import sys, study.run, study.driver.experiment, study.tracking.mirror, study.tracking.__main__; print('wandb' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout.strip() == "False"
