"""Searches without training: a journal whose trials get their epochs from a formula, written as a worker writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import register_trials
from study.search.journal import SearchJournal, Suggestion
from study.spec.grid_file import parse_grid
from study.spec.study_spec import StudySpec, build_spec
from trainable.config import TrialConfig
from trainable.records.tables import TrialRecords, build_table
from trainable.records.trial_state import TrialState, read_state, write_state
from trainable.trial import export_records

DATA = "d" * 16
GRID = """
name = "small"
[base]
dataset = "synthetic"
epochs = 9
train_limit = 1000
[search]
trials = 20
seed = 5
{search}
[search.space]
batch_size = {{ choices = [32, 64, 128] }}
learning_rate = {{ low = 0.001, high = 1.0, log = true }}
momentum = {{ low = 0.0, high = 0.9 }}
{space}
[[cells]]
label = "known"
batch_size = 64
learning_rate = 0.1
momentum = 0.9
[[cells]]
label = "another"
batch_size = 128
learning_rate = 0.2
momentum = 0.9
"""


def small_spec(search: str = "", space: str = "", **build: Any) -> StudySpec:
    """Two known cells and a space of three fields; `search` and `space` are added to their tables."""
    return build_spec(parse_grid(GRID.format(search=search, space=space), "test"), **build)


def accuracy(config: TrialConfig, epoch: int) -> float:
    """Rises with the epochs to a value that is best at learning rate 0.05 and momentum 0.6."""
    final = 0.9 - 0.1 * math.log10(config.learning_rate / 0.05) ** 2 - 0.2 * (config.momentum - 0.6) ** 2
    return max(0.05, final * (1 - 0.6**epoch))


def train_epochs(
    folder: StudyFolder, state: TrialState, last: int, status: str, reason: str | None = None, **values: Any
) -> None:
    """Leave a trial on disk as a worker does after `last` epochs."""
    config = state.config
    rows = [
        {
            "trial_id": state.trial_id, "epoch": epoch, "step": epoch * 28, "train_loss": 1.0 / epoch,
            "val_accuracy": accuracy(config, epoch), "val_loss": 2 - accuracy(config, epoch), "train_time_s": 2.0,
            **values,
        }
        for epoch in range(1, last + 1)
    ]  # fmt: skip
    path = folder.trial(state.trial_id)
    path.mkdir(parents=True, exist_ok=True)
    export_records(path, replace(TrialRecords.empty(), epochs=build_table("epochs", rows)))
    write_state(
        path, replace(state, status=status, reason=reason, epochs_completed=last, attempts=1, wall_time_s=2.0 * last)
    )


class Killed(Exception):
    """The driver of the test is gone, without closing anything."""


def run_journal(
    journal: SearchJournal,
    folder: StudyFolder,
    *,
    kill: Callable[[Suggestion, int], bool] = lambda s, e: False,
    **values: Any,
) -> list[Suggestion]:
    """What one worker does with a journal: train what is suggested, epoch by epoch, and stop where it is pruned.

    `kill(suggestion, epoch)` says after which epoch, on disk but not yet told, the driver dies. `values` are further columns of
    every epoch. Returns what was suggested.
    """
    suggested = []
    while (suggestion := journal.suggest()) is not None:
        suggested.append(suggestion)
        register_trials(folder, [suggestion.state])
        _train(journal, folder, suggestion, kill, values)
        journal.settle(suggestion.number)
    return suggested


def _train(
    journal: SearchJournal, folder: StudyFolder, suggestion: Suggestion, kill: Callable[[Suggestion, int], bool],
    values: dict[str, Any],
) -> None:  # fmt: skip
    state = suggestion.state
    for epoch in range(state.epochs_completed + 1, state.config.epochs + 1):
        if kill(suggestion, epoch):
            train_epochs(folder, state, epoch, "pending", "interrupted", **values)
            raise Killed
        reason = journal.observe(suggestion.number, epoch, {"val_accuracy": accuracy(state.config, epoch), **values})
        if reason is not None and epoch < state.config.epochs:
            train_epochs(folder, state, epoch, "pruned", reason, **values)
            return
    train_epochs(folder, state, state.config.epochs, "completed", **values)


def open_folder(path: Path) -> StudyFolder:
    """An empty study folder."""
    path.mkdir(parents=True, exist_ok=True)
    return StudyFolder(path)


def state_of(folder: StudyFolder, suggestion: Suggestion) -> TrialState:
    """What is on disk of a suggested trial."""
    state = read_state(folder.trial(suggestion.state.trial_id))
    assert state is not None
    return state
