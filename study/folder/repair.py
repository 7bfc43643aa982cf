"""Puts right what can be made again in a damaged study folder.

The checkpoints hold configuration, weights and records of a trial, so a damaged trial.json or records file is rebuilt from
the newest whole one. study.json has a second copy. Everything that was done is said; nothing is repaired in silence.
A file that a newer version wrote is not damaged: it ends the repair. The driver calls this while it holds the study's lock. Imports torch only where there is something to rebuild.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.records.image_files import read_telling_images, read_test_labels
from analysis.records.study_folder import IncompatibleStudyError, StudyFolder, StudyFolderError
from analysis.records.study_json import StudyInfo, parse_study, read_json
from trainable.errors import IncompatibleVersionError
from trainable.files import write_atomically
from trainable.records.trial_state import (
    STATE_FILE,
    IncompatibleStateError,
    TrialState,
    TrialStateError,
    read_state,
    write_state,
)

if TYPE_CHECKING:
    from trainable.records.checkpoint import Checkpoint

STUDY_COPY = "study.copy.json"


def write_study(folder: StudyFolder, study: StudyInfo) -> None:
    """Write study.json and its second copy."""
    folder.write_study(study)
    write_atomically(folder.path / STUDY_COPY, study.to_json().encode())


def repair_study(folder: StudyFolder) -> list[str]:
    """Rebuild study.json and the trial.json files where they are damaged or gone; returns what was done, a line each.

    Errors: StudyFolderError where study.json and its copy are both damaged; IncompatibleStudyError where a file is of a newer
    version.
    """
    done = _repair_study_json(folder)
    trials = sorted(folder.trials.iterdir()) if folder.trials.is_dir() else []
    for path in trials:
        if path.is_dir() and (line := _repair_state(path)):
            done.append(line)
    for path, check in (
        (folder.samples, folder.read_samples),
        (folder.samples, lambda: read_test_labels(folder)),
        (folder.telling_images, lambda: read_telling_images(folder)),
        (folder.records("model"), lambda: folder.read_records("model")),
    ):
        try:
            check()
        except IncompatibleStudyError:
            raise
        except StudyFolderError as error:
            path.unlink()
            done.append(f"{error}; made again")
    return done


def rebuild_records(folder: Path) -> tuple[str, int] | None:
    """Write a trial's record files again, from its newest whole checkpoint: its name and epoch, None where there is none."""
    from trainable.trial import export_records

    name, checkpoint = _newest_checkpoint(folder)
    if checkpoint is None or name is None:
        return None
    export_records(folder, checkpoint.records)
    return name, checkpoint.epoch


def _repair_study_json(folder: StudyFolder) -> list[str]:
    copy = folder.path / STUDY_COPY
    if not folder.exists() and not copy.exists():
        return []
    try:
        folder.read_study()
    except IncompatibleStudyError:
        raise
    except StudyFolderError as error:
        try:
            parse_study(read_json(copy), copy)
            content = copy.read_bytes()
        except (StudyFolderError, OSError):
            raise error from None
        write_atomically(folder.study_json, content)
        return [f"{error}; restored from {STUDY_COPY}"]
    return []


def _repair_state(folder: Path) -> str | None:
    """Rebuild a trial.json that is damaged or gone; a trial of which nothing is left starts anew. Returns what was done."""
    try:
        if read_state(folder) is not None or not any(folder.iterdir()):
            return None
        problem = f"{folder / STATE_FILE}: missing"
    except IncompatibleStateError as error:
        raise IncompatibleStudyError(str(error)) from error
    except TrialStateError as error:
        problem = str(error)
    name, checkpoint = _newest_checkpoint(folder)
    if checkpoint is None:
        (folder / STATE_FILE).unlink(missing_ok=True)
        return f"{problem}; no checkpoint of it is left, the trial starts anew"
    note = f"{STATE_FILE} was damaged or gone, and rebuilt from {name}: times, hardware and attempts before are lost"
    write_state(folder, _state_of(checkpoint, note))
    return f"{problem}; rebuilt from {name}"


def _state_of(checkpoint: Checkpoint, note: str) -> TrialState:
    from trainable.trial import measure_trial

    state = TrialState(
        config=checkpoint.config,
        data_fingerprint=checkpoint.data_fingerprint,
        epochs_completed=checkpoint.epoch,
        attempts=1,
        notes=(note,),
    )
    if checkpoint.diverged:
        return replace(state, status="diverged", reason=f"loss not finite in epoch {checkpoint.epoch}")
    if checkpoint.epoch < checkpoint.config.last_epoch:
        return state
    return replace(state, status="completed", measured=measure_trial(checkpoint))


def _newest_checkpoint(folder: Path) -> tuple[str | None, Checkpoint | None]:
    """The newest whole checkpoint that belongs into this folder, and its name."""
    from trainable.config import trial_id
    from trainable.records.checkpoint import list_checkpoints, read_checkpoint

    for path in list_checkpoints(folder):
        try:
            checkpoint = read_checkpoint(path)
        except IncompatibleVersionError as error:
            raise IncompatibleStudyError(f"{path}: {error}") from error
        except (OSError, ValueError):
            continue  # the trial notes it when it goes on
        if trial_id(checkpoint.config, checkpoint.data_fingerprint) == folder.name:
            return path.name, checkpoint
    return None, None
