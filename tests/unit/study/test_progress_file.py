"""progress.json says how a study goes on and how it ended, wherever its driver may write it, and nowhere else."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from study.folder.progress_file import (
    PROGRESS_FILE,
    ProgressFile,
    StudyProgress,
    StudyState,
    format_clock,
    parse_progress,
    read_progress,
)


def read(path: Path) -> StudyProgress:
    found = parse_progress(path.read_text())
    assert found is not None
    return found


def test_what_is_written_is_read_back_and_its_fields_are_these(tmp_path: Path) -> None:
    """The schema that others read: a field may be added here, none renamed."""
    file = ProgressFile(tmp_path / "copy.json")
    file.change(num_trials=6, num_done=1, left_s=12.5)
    assert read(tmp_path / "copy.json") == file.progress
    assert list(json.loads((tmp_path / "copy.json").read_text())) == [
        "state", "num_trials", "num_done", "num_running", "num_failed", "left_s", "num_failures", "num_retries",
        "last_failure", "num_lost_nodes", "last_lost_node", "reason", "started_at", "updated_at",
    ]  # fmt: skip


def test_a_later_version_may_add_fields() -> None:
    assert parse_progress('{"state": "running", "num_done": 2, "colour": "red"}') == StudyProgress(
        state=StudyState.RUNNING, num_done=2
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "half a {", "[]", "3", "{}", '{"state": "dancing"}', "A file is not found", "[" * 200_000,
        *(f'{{"state": "running", {field}}}' for field in ('"left_s": NaN', '"left_s": -Infinity', '"left_s": 1e999',
        '"num_done": "3"', '"num_done": 1.5', '"num_done": null', '"num_trials": true', '"reason": {}')),
    ],
)  # fmt: skip
def test_what_is_no_progress_file_is_none(text: str) -> None:
    assert parse_progress(text) is None


def test_texts_hold_no_characters_that_are_none() -> None:
    found = parse_progress('{"state": "running", "last_failure": "caf\\udce9"}')
    assert found is not None
    assert found.last_failure == "caf?"


def test_a_pipe_is_not_waited_for_and_a_huge_file_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "huge").write_text(json.dumps({"state": "running", "reason": "x" * (1 << 20)}))
    assert read_progress(tmp_path / "pipe") is None
    assert read_progress(tmp_path / "huge") is None


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), StudyState.INTERRUPTED, None),
        (OSError(28, "No space left on device"), StudyState.ERROR, "[Errno 28] No space left on device"),
    ],
)
def test_an_end_by_an_exception_is_written_to_both_places(
    error: BaseException, state: StudyState, reason: str | None, tmp_path: Path
) -> None:
    folder, copy = tmp_path / "study", tmp_path / "copy.json"
    folder.mkdir()
    file = ProgressFile(copy)
    assert not (folder / PROGRESS_FILE).exists()

    def fail() -> None:
        with file.ending(), file.kept_in(folder, lambda: False):
            assert read(folder / PROGRESS_FILE).state == StudyState.RUNNING
            file.change(num_running=2)
            raise error

    with pytest.raises(type(error)):
        fail()
    assert replace(read(folder / PROGRESS_FILE), updated_at="") == replace(read(copy), updated_at="")
    assert (read(copy).state, read(copy).reason, read(copy).num_running) == (state, reason, 0)


def test_a_study_that_was_taken_over_or_removed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "removed").mkdir()
    taken_over = False
    file = ProgressFile()
    with file.kept_in(tmp_path / "theirs", lambda: taken_over):
        taken_over = True
        file.end(StudyState.DONE)
    assert read(tmp_path / "theirs" / PROGRESS_FILE).state == StudyState.RUNNING
    with file.kept_in(tmp_path / "removed", lambda: False):
        (tmp_path / "removed" / PROGRESS_FILE).unlink()
        (tmp_path / "removed").rmdir()
        file.end(StudyState.DONE)
    assert not (tmp_path / "removed").exists()


def test_what_cannot_be_written_does_not_end_the_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "copy.json").mkdir()
    ProgressFile(tmp_path / "copy.json").change(num_done=1)
    assert "could not be written" in caplog.text


def test_clocks() -> None:
    assert [format_clock(seconds) for seconds in (None, 0, 65, 3723)] == ["", "0:00", "1:05", "1:02:03"]
