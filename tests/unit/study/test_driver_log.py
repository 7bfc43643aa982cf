"""What a job prints stays in the study's folder, run after run, and a folder that goes away ends nothing."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from study.folder.driver_log import DRIVER_LOG, kept_log


def test_what_every_run_says_is_kept_and_still_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept_log(tmp_path, "study run --grid a"):
        print("progress: 0 of 2 trials done")
        Console().print("12:00  batch 32  epoch 1/2", highlight=False)
        assert "epoch 1/2" in (tmp_path / DRIVER_LOG).read_text(), "at once: a head may be gone the next moment"
    with contextlib.suppress(KeyboardInterrupt), kept_log(tmp_path, "study run --grid a --seeds 2"):
        print("note: one trial failed", file=sys.stderr)
        raise KeyboardInterrupt
    print("not of the study")
    lines = (tmp_path / DRIVER_LOG).read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines if line.startswith("--- ")] == [
        "study run --grid a",
        "study run --grid a --seeds 2",
    ]
    assert [line for line in lines if not line.startswith("--- ")] == [
        "progress: 0 of 2 trials done", "12:00  batch 32  epoch 1/2", "note: one trial failed",
    ]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "progress: 0 of 2 trials done",
        "12:00  batch 32  epoch 1/2",
        "not of the study",
    ]


def test_a_folder_that_cannot_be_written_or_goes_away_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with kept_log(tmp_path / "absent", "study run"):
        print("one")
    folder = tmp_path / "study"
    folder.mkdir()
    with kept_log(folder, "study run"):
        shutil.rmtree(folder)
        print("two")
    said = capsys.readouterr()
    assert said.out == "one\ntwo\n"
    assert said.err.count("\n") == 1
