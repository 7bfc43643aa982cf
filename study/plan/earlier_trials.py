"""What trials of earlier studies in a results folder took on a device: they correct the estimate of the next study.

A study may have been changed by hand, or be damaged: one that cannot be believed is left out with a reason. Imports neither torch
nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.compute as pc

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.sources.pull import is_url
from study.plan.epoch_times import EarlierTrial, EpochTimes, Hardware, guess_epoch_s
from trainable.config import trial_id
from trainable.data.kinds import sizes_of
from trainable.errors import first_line
from trainable.records.columns import CONFIG_COLUMNS
from trainable.records.tables import config_of_row

_MOST_STUDIES = 50  # the latest ones
_BELIEVED = 100.0  # a trial that took so many times longer or shorter than guessed was not timed by this program
_TIMES = ("train_time_s", "eval_time_s", "instrument_time_s")
_HARDWARE = ("hardware", "num_threads", "gpu_share", "timing_exclusive")


class _UnbelievableError(ValueError):
    """A trial whose records contradict themselves; the message says which and how."""


def read_epoch_times(results: str, hardware: Hardware) -> EpochTimes:
    """Estimates for this hardware, with the earlier trials on it that a results folder holds; a URL is not searched."""
    if hardware.device is None or is_url(results) or not Path(results).is_dir():
        return EpochTimes(hardware)
    found: list[EarlierTrial] = []
    left_out: list[str] = []
    for folder in _latest_studies(Path(results)):
        try:
            found += _read_study(StudyFolder(folder), hardware)
        except (StudyFolderError, ValueError, OverflowError) as error:
            left_out.append(f"earlier times of {folder.name} are not used: {first_line(error)}")
    return EpochTimes(hardware, tuple(found), tuple(left_out))


def _latest_studies(results: Path) -> list[Path]:
    """The study folders that have epochs, the latest ones first."""
    try:
        dated = [(path.stat().st_mtime, path.parent) for path in results.glob("*/epochs.parquet")]
    except OSError:
        return []
    return [folder for _, folder in sorted(dated, reverse=True)][:_MOST_STUDIES]


def _read_study(folder: StudyFolder, hardware: Hardware) -> list[EarlierTrial]:
    """Its trials on this hardware. Errors: StudyFolderError, ValueError."""
    columns = ["trial_id", "data_fingerprint", *_HARDWARE, *(column.name for column in CONFIG_COLUMNS)]
    rows = [row for row in folder.read_records("trials", columns).to_pylist() if _is_on(row, hardware)]
    if not rows:
        return []
    epochs = folder.read_records(
        "epochs", ["trial_id", *_TIMES], pc.field("trial_id").isin([r["trial_id"] for r in rows])
    )
    taken: dict[str, list[Sequence[Any]]] = {}
    for row in epochs.to_pylist():
        taken.setdefault(row["trial_id"], []).append([row[name] for name in _TIMES])
    return [_read_trial(row, taken[row["trial_id"]], hardware) for row in rows if row["trial_id"] in taken]


def _is_on(row: dict[str, Any], hardware: Hardware) -> bool:
    """Whether a trial, no branch, ran on what the next ones will: threads decide on CPUs alone."""
    same = (row["hardware"], row["gpu_share"], row["timing_exclusive"])
    if row["config.branch_epoch"] or sizes_of(row["config.dataset"]) is None:  # nobody knows how much it had to do
        return False
    return same == (hardware.device, hardware.gpu_share, hardware.timing_exclusive) and (
        bool(hardware.gpu_share) or row["num_threads"] == hardware.num_threads
    )


def _read_trial(row: dict[str, Any], taken: list[Sequence[Any]], hardware: Hardware) -> EarlierTrial:
    name = row["trial_id"]
    config = config_of_row(row)
    if trial_id(config, row["data_fingerprint"]) != name:
        raise _UnbelievableError(f"the configuration of trial {name} does not match its id")
    if wrong := [s for times in taken for s in times if s is None or not (math.isfinite(s) and s >= 0)]:
        raise _UnbelievableError(f"an epoch of trial {name} took {wrong[0]} s")
    epoch_s = median(sum(times) for times in taken)
    guessed_s = guess_epoch_s(config, hardware)
    if epoch_s == 0 or (guessed_s and not 1 / _BELIEVED <= epoch_s / guessed_s <= _BELIEVED):
        raise _UnbelievableError(
            f"{epoch_s:.3g} s for an epoch of trial {name} cannot be: about {guessed_s:.2g} s are guessed"
        )
    return EarlierTrial(config, epoch_s)
