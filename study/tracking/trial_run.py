"""One trial's W&B run, written from the records in the trial's folder: while it trains, at its end, or long after.

A row is written once and in order: what the run holds already (`_step` below the next one) is passed over. So it does not
matter whether the run is new, goes on after an interruption, repeats epochs because its checkpoint was older, or is made
long after the study: the history is the same.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.comparison.branches import describe_branch
from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.style import NothingToDraw, styled
from analysis.figures import trial_figures
from analysis.records.layer_file import find_cadence, find_last_steps
from analysis.records.phases import picture_epochs
from analysis.records.study_folder import StudyFolder
from study.tracking.connection import Connection
from study.tracking.rows import (
    EPOCH_AXIS,
    EPOCH_METRICS,
    PUBLISHED_STEP_AXIS,
    STEP_AXIS,
    STEP_METRICS,
    build_run_config,
    expand_epoch,
    final_values,
)  # fmt: skip
from trainable.config import cell_id
from trainable.records.trial_state import TrialState

_EXIT_CODES = {"completed": 0, "pruned": 0, "pending": 255, "running": 255}  # others 1: W&B calls the run failed


class TrialRun:
    """The open run of the trial with this `state` in the study in `folder`; once `hurry` is set, it gets no further picture.

    Errors: WandbUnavailable, StudyFolderError.
    """

    def __init__(self, folder: StudyFolder, state: TrialState, connection: Connection, hurry: threading.Event) -> None:
        self._folder, self._hurry = folder, hurry
        self._records = StudyFolder(folder.trial(state.trial_id))  # a trial's files are named like the study's
        labels = {cell.cell_id: cell.label for cell in folder.read_study().cells}
        config = state.config
        self._study, self._label = connection.group, labels.get(cell_id(config.parent), state.trial_id)
        if config.branch_epoch:
            self._label += ", " + describe_branch(config.branch_epoch, config.branch_batch_size, config.branch_scaling)
        self._about = f"{self._label}, seed {state.config.seed}"
        self._run = connection.open_run(state.trial_id, self._about, self._config(state), job_type="trial")
        self._run.define_axis(STEP_AXIS, STEP_METRICS)
        self._run.define_axis(PUBLISHED_STEP_AXIS, {})  # to choose in a chart
        self._run.define_axis(EPOCH_AXIS, EPOCH_METRICS)
        self._next_step = self._run.first_step
        self._written_epoch = 0
        self._newest_row: int | None = None  # of those written now, so that it can still be added to
        drawn = picture_epochs(state.config.epochs) if state.config.instrument_every_steps else []
        pictures = {f"{name}/epoch_{epoch}": (kind, epoch) for epoch in drawn for name, kind in trial_figures().items()}
        self._missing_pictures = {name: of for name, of in pictures.items() if self._run.summary_value(name) is None}

    @property
    def url(self) -> str | None:
        """The run's page; None offline."""
        return self._run.url

    def update(self, state: TrialState) -> None:
        """Write the epochs that the trial has saved since, and the pictures that became possible.

        Of the newest checkpoint at most: a trial's records are replaced one by one, its state after all of them.
        """
        saved = (pc.field("epoch") > self._written_epoch) & (pc.field("epoch") <= state.epochs_completed)
        by_epoch: dict[int, list[dict[str, Any]]] = {}
        for step in self._records.read_records("steps", filters=saved).to_pylist():
            by_epoch.setdefault(step["epoch"], []).append(step)
        for epoch in self._records.read_records("epochs", filters=saved).to_pylist():
            self._write_epoch(epoch, by_epoch.get(epoch["epoch"], []))
        if self._newest_row is not None:
            self._draw_pictures(state)

    def finish(self, state: TrialState) -> None:
        """Complete the run and close it."""
        if state.finished and self._newest_row is None:
            self._newest_row = self._next_step  # no other row will ever need this place
        self.update(state)
        if self._newest_row is not None:
            self._add_final_values(state)
        self._run.update_config({**self._config(state), "status": state.status, "reason": state.reason})
        self._run.finish(_EXIT_CODES.get(state.status, 1))

    def _write_epoch(self, epoch: Mapping[str, Any], steps: Iterable[Mapping[str, Any]]) -> None:
        for row in expand_epoch(epoch, steps):
            if row.wandb_step >= self._next_step:
                self._run.write(row.values, row.wandb_step)
                self._newest_row, self._next_step = row.wandb_step, row.wandb_step + 1
        self._written_epoch = epoch["epoch"]

    def _draw_pictures(self, state: TrialState) -> None:
        """Add the pictures of epochs whose layer records are on disk to the newest row."""
        saved = state.epochs_completed
        due = {name: of for name, of in self._missing_pictures.items() if of[1] <= saved}
        if not due or self._hurry.is_set():
            return
        layers = self._records.read_records("layers", filters=pc.field("epoch") <= saved).to_pandas()
        epochs = self._records.read_records("epochs", ["epoch", "step"]).to_pydict()
        cadence = layers[find_cadence(layers, {state.trial_id: state.config.instrument_every_steps})]
        last_steps = layers[find_last_steps(layers, dict(zip(epochs["epoch"], epochs["step"], strict=True)))]
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "picture.png"
            for name, (kind, epoch) in due.items():
                if self._hurry.is_set():
                    return
                layers = last_steps if kind.of_last_steps else cadence
                if draw_picture(kind, layers, epoch, self._about, path):
                    self._add({name: path})
                del self._missing_pictures[name]

    def _add_final_values(self, state: TrialState) -> None:
        if state.status == "completed" and self._run.summary_value("final/final_test_acc") is None:
            epochs = self._records.read_records("epochs").to_pydict()
            self._add(final_values(epochs["test_accuracy"], epochs["train_accuracy"][-1], state.measured))

    def _add(self, values: Mapping[str, Any]) -> None:
        """Add to the newest row: only there does it not take the place of a row of the records."""
        assert self._newest_row is not None
        self._run.write(values, self._newest_row)

    def _config(self, state: TrialState) -> dict[str, Any]:
        """Again at the end: a study may start its first trials before it has counted their FLOPs."""
        return build_run_config(state, self._study, self._label, self._folder.read_records("model"))


def draw_picture(kind: FigureKind[Any], layers: pd.DataFrame, epoch: int, about: str, path: Path) -> bool:
    """Write the figure of a trial at an epoch as PNG, from its layer records; False where nothing was measured for it.

    `layers` are those at the last step of each epoch where the figure is of them, else those at the steps of the cadence.
    """
    assert kind.build_at_epoch is not None
    try:
        figure = kind.draw_on_paper(kind.build_at_epoch(layers, epoch), Subject(about=about))
    except NothingToDraw:
        return False
    with styled(), path.open("wb") as file:
        canvas: Any = FigureCanvasAgg(figure)  # its methods are untyped
        canvas.print_png(file)
    return True
