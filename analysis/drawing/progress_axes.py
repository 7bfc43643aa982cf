"""Measures of how far training has come, by cell and epoch: what curves are drawn against.

Cells with other batch sizes and learning rates are not at the same place after the same number of steps or epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.drawing.selection import CellRows, ShownCell, shown_cells
from analysis.records.frames import Study
from analysis.records.phases import first_learning_rate
from trainable.config import model_name

FLOPS_TITLE = "FLOP spent (two per MAC, forward + backward)"
EPOCH_AXES = {
    "epoch": "epoch", "step": "steps", "images": "images seen", "flops": FLOPS_TITLE,
    "cumulative_learning_rate": "sum of learning rates", "time_s": "training time (s)",
}  # fmt: skip


def load_epoch_axes(study: Study) -> pd.DataFrame:
    """Columns cell and those of EPOCH_AXES: where each shown cell stands after each epoch. Times are means over its trials."""
    return study.derive(_build_of_study)


def add_epoch_axes(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` of cells and epochs, with where the cell then stands."""
    return rows.merge(load_epoch_axes(study), how="left", on=["cell", "epoch"])


def add_axes(study: Study, data: CellRows) -> CellRows:
    """`add_epoch_axes` to what a figure draws."""
    return CellRows(add_epoch_axes(study, data.rows), data.labels)


def build_epoch_axes(
    epochs: pd.DataFrame, cells: Sequence[ShownCell], flops_per_image: Mapping[str, int]
) -> pd.DataFrame:
    """The same from the epochs' records. FLOPs are NaN for a network that is not in `flops_per_image`."""
    parts = []
    for cell in cells:
        own = epochs[epochs["trial_id"].isin(cell.trial_ids)]
        own = own.assign(time_s=own.groupby("trial_id")["train_time_s"].cumsum())
        frame = own.groupby("epoch").agg({"step": "first", "learning_rate": "first", "time_s": "mean"}).reset_index()
        if frame.empty:
            continue
        frame["images"] = frame["step"] * int(cell.config["batch_size"])
        frame["flops"] = frame["images"] * flops_per_image.get(model_name(cell.config), np.nan)
        steps = frame["step"].to_numpy()
        frame["cumulative_learning_rate"] = cumulative_learning_rate(
            steps, steps, first_learning_rate(cell.config), frame["learning_rate"].to_numpy()
        )
        parts.append(frame.assign(cell=cell.index))
    columns = ["cell", *EPOCH_AXES]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def cumulative_learning_rate(
    steps_taken: np.ndarray, epoch_ends: np.ndarray, first_rate: float, rates_after: np.ndarray
) -> np.ndarray:
    """Sum of the learning rates of the first `steps_taken` steps, for a rate that is constant within an epoch.

    Epoch i ends after `epoch_ends[i]` steps; its rate is `first_rate` for the first one, then the one recorded after
    the epoch before.
    """
    rates = np.concatenate([[first_rate], rates_after[:-1]])
    ends = np.concatenate([[0], epoch_ends]).astype(float)
    sums = np.concatenate([[0.0], np.cumsum(np.diff(ends) * rates)])
    return np.asarray(np.interp(steps_taken, ends, sums))


def load_flops_per_image(study: Study) -> dict[str, int]:
    """Training FLOPs of one image by the network's name, two per multiply-accumulate."""
    sums = study.model.groupby("model")["flops_two_per_mac_training"].sum(min_count=1).dropna()
    return {str(name): int(flops) for name, flops in sums.items()}


def _build_of_study(study: Study) -> pd.DataFrame:
    return build_epoch_axes(study.epochs, shown_cells(study), load_flops_per_image(study))
