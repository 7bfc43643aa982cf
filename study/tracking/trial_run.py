"""One trial's W&B run: written from its reports while it trains, completed and caught up from its records on disk.

A row is written once and in order: what the run holds already (`_step` below the next one) is passed over, and a report
that would leave a gap waits until the records fill it. So it does not matter whether the run is new, goes on after an
interruption, repeats epochs because its checkpoint was older, or is made long after the study: the history is the same.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from analysis.records.layer_file import find_cadence
from analysis.records.phases import shown_epochs
from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.ledger import load_state
from study.tracking.connection import Connection
from study.tracking.rows import (
    EPOCH_AXIS,
    EPOCH_METRICS,
    STEP_AXIS,
    STEP_METRICS,
    Row,
    build_run_config,
    expand_epoch,
    final_values,
)  # fmt: skip
from trainable.config import cell_id
from trainable.trial_state import TrialState

_EXIT_CODES = {"completed": 0, "pruned": 0, "pending": 255, "running": 255}  # others 1: W&B calls the run failed


class TrialRun:
    """The open run of one trial of the study in `folder`; once `hurry` is set, no further picture is drawn.

    Errors: WandbUnavailable, StudyFolderError.
    """

    def __init__(
        self, folder: StudyFolder, trial_id: str, connection: Connection, hurry: threading.Event | None = None
    ) -> None:
        self._folder, self._trial_id, self._hurry = folder, trial_id, hurry or threading.Event()
        self._records = StudyFolder(folder.trial(trial_id))  # a trial's files are named like the study's
        state = self._state()
        labels = {cell.cell_id: cell.label for cell in folder.read_study().cells}
        self._study, self._label = connection.group, labels.get(cell_id(state.config), trial_id)
        self._about = f"{self._label}, seed {state.config.seed}"
        self._run = connection.open_run(trial_id, self._about, self._config(state), job_type="trial")
        self._run.define_axis(STEP_AXIS, STEP_METRICS)
        self._run.define_axis(EPOCH_AXIS, EPOCH_METRICS)
        self._next_step = self._run.first_step
        self._newest_row: int | None = None  # of those written now, so that it can still be added to
        shown = shown_epochs(state.config.epochs) if state.config.instrument_every_steps else []
        from analysis.figures import trial_figures  # matplotlib: not before there is a run

        pictures = [(epoch, f"{kind}/epoch_{epoch}") for epoch in shown for kind in trial_figures()]
        self._missing_pictures = [(epoch, name) for epoch, name in pictures if self._run.summary_value(name) is None]

    @property
    def url(self) -> str | None:
        """The run's page; None offline."""
        return self._run.url

    def add_epoch(self, epoch: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> None:
        """Write the epoch record and the step records of one report, and the pictures that became possible."""
        rows = expand_epoch(epoch, steps)
        if rows[0].wandb_step > self._next_step:
            self._catch_up()
        if rows[0].wandb_step <= self._next_step:
            self._write(rows)
        if self._newest_row is not None:
            self._draw_pictures()

    def finish(self) -> TrialState:
        """Complete the run from the records on disk and close it; returns the state that it then shows."""
        state = self._state()
        self._catch_up()
        if self._newest_row is None and state.finished:
            self._newest_row = self._next_step  # no other row will ever need this place
        if self._newest_row is not None:
            self._draw_pictures()
            self._add_final_values(state)
        self._run.update_config({**self._config(state), "status": state.status, "reason": state.reason})
        self._run.finish(_EXIT_CODES.get(state.status, 1))
        return state

    def _write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.wandb_step >= self._next_step:
                self._run.write(row.values, row.wandb_step)
                self._newest_row, self._next_step = row.wandb_step, row.wandb_step + 1

    def _catch_up(self) -> None:
        """Write every epoch on disk that the run lacks."""
        for epoch, steps in self._saved_epochs():
            self._write(expand_epoch(epoch, steps))

    def _saved_epochs(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Epochs of the newest checkpoint: its records are replaced one by one, its state after all of them."""
        saved = pc.field("epoch") <= self._state().epochs_completed
        by_epoch: dict[int, list[dict[str, Any]]] = {}
        for step in self._read("steps", saved).to_pylist():
            by_epoch.setdefault(step["epoch"], []).append(step)
        for epoch in self._read("epochs", saved).to_pylist():
            yield epoch, by_epoch.get(epoch["epoch"], [])

    def _draw_pictures(self) -> None:
        """Add the pictures of shown epochs whose layer records are on disk to the newest row."""
        saved = self._state().epochs_completed
        due = [name for epoch, name in self._missing_pictures if epoch <= saved]
        if not due or self._hurry.is_set():
            return
        from study.tracking.pictures import LAYER_COLUMNS, draw_picture

        layers = self._read("layers", pc.field("epoch") <= saved, LAYER_COLUMNS).to_pandas()
        every = self._state().config.instrument_every_steps
        layers = layers[find_cadence(layers, {self._trial_id: every})]
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "picture.png"
            for name in due:
                if self._hurry.is_set():
                    return
                if draw_picture(name, layers, self._about, path):
                    self._add({name: path})
        self._missing_pictures = [(epoch, name) for epoch, name in self._missing_pictures if epoch > saved]

    def _add_final_values(self, state: TrialState) -> None:
        if state.status == "completed" and self._run.summary_value("final/final_test_acc") is None:
            epochs = self._records.read_records("epochs").to_pydict()
            self._add(final_values(epochs["test_accuracy"], epochs["train_accuracy"][-1]))

    def _add(self, values: Mapping[str, Any]) -> None:
        """Add to the newest row: only there does it not take the place of a row of the records."""
        assert self._newest_row is not None
        self._run.write(values, self._newest_row)

    def _config(self, state: TrialState) -> dict[str, Any]:
        """Again at the end: a study may start its first trials before it has counted their FLOPs."""
        return build_run_config(state, self._study, self._label, self._folder.read_records("model"))

    def _state(self) -> TrialState:
        state = load_state(self._folder, self._trial_id)
        if state is None:
            raise StudyFolderError(f"{self._folder.trial(self._trial_id)}: the trial's state is gone")
        return state

    def _read(self, kind: str, condition: pc.Expression, columns: Iterable[str] | None = None) -> pa.Table:
        return self._records.read_records(kind, None if columns is None else list(columns), condition)
