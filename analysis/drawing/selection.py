"""Which trials a figure shows, and small steps from records to its data.

A cell is shown by its completed trials; where it has none, by the ones that are still running, were interrupted (pending,
with epochs) or pruned, then by diverged ones, and its label says so. Knows nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.drawing.style import NothingToDraw
from analysis.records.factors import network_labels
from analysis.records.frames import Study
from analysis.records.study_json import StudyInfo
from trainable.config import model_name

MAX_CELLS = 20  # in a figure that compares cells
MAX_DETAILED_CELLS = 6  # with pictures of their own
MAX_NETWORKS = 3
MAX_LAYERS = 80  # with a row of their own in a picture
NORMS = ("bn", "ln", "gn")

_PREFERENCE = (("completed",), ("running", "pending", "pruned"), ("diverged", "failed"))


Labels: TypeAlias = tuple[tuple[int, str], ...]  # of cells, each with its index


@dataclass(frozen=True)
class ShownCell:
    """A cell with the trials that stand for it; `index` is its place in the study and decides its colour."""

    index: int
    label: str
    config: Mapping[str, Any]
    trial_ids: tuple[str, ...]
    representative: str  # the first of them in order of seeds
    representative_seed: int


def select_cells(study: StudyInfo, trials: pd.DataFrame) -> list[ShownCell]:
    """The cells of the study that have a trial with at least one epoch, in the study's order."""
    frame = trials[trials["epochs_completed"].fillna(0) > 0].sort_values(["seed", "trial_id"])
    found = []
    for index, cell in enumerate(study.cells):
        own = frame[frame["cell_id"] == cell.cell_id]
        for statuses in _PREFERENCE:
            chosen = own[own["status"].isin(statuses)]
            if len(chosen):
                names = sorted(set(chosen["status"]))
                label = cell.label if names == ["completed"] else f"{cell.label} ({', '.join(names)})"
                ids = tuple(chosen["trial_id"])
                found.append(ShownCell(index, label, cell.config, ids, ids[0], int(chosen["seed"].iloc[0])))
                break
    return found


def shown_cells(study: Study) -> list[ShownCell]:
    """The cells in a figure that compares cells: the first ones of the study, fixed before any result was known."""
    return study.derive(_all_cells)[:MAX_CELLS]


def detailed_cells(study: Study) -> list[ShownCell]:
    """The cells that have pictures of their own."""
    return study.derive(_all_cells)[:MAX_DETAILED_CELLS]


def shown_networks(study: Study) -> dict[str, str]:
    """The networks that have pictures of their own, the narrowest first: by name what tells them from the others of the study."""
    configured = {model_name(cell.config): int(cell.config["width"]) for cell in study.info.cells}
    recorded = dict(zip(study.model["model"], study.model["width"], strict=True))
    widths = {**recorded, **configured}
    names, labels = sorted(widths, key=lambda name: (widths[name], name)), network_labels(widths)
    return {name: labels[name] for name in names[:MAX_NETWORKS]}


def choose_layers(rows: pd.DataFrame) -> list[str]:
    """The tensors that have a row in a picture of a row each, in the order of `rows` (columns layer and, where known, kind).

    Of more than MAX_LAYERS norms and then biases are left out, of what are still more evenly chosen ones stay.
    """
    known = rows.drop_duplicates("layer")
    names = known["layer"].astype(str)
    is_norm = known["kind"].isin(NORMS) if "kind" in known else pd.Series(False, index=known.index)
    for left_out in (is_norm, names.str.endswith("bias")):
        if len(names) > MAX_LAYERS and not left_out[names.index].all():
            names = names[~left_out[names.index]]
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), MAX_LAYERS)).round().astype(int))
    return names.iloc[chosen].tolist() if len(names) else []


def left_out_note(study: Study) -> str:
    """What to tell a reader about cells that are not in every figure; empty where all are."""
    count = len(study.derive(_all_cells))
    if count <= MAX_DETAILED_CELLS:
        return ""
    compared = f"Figures that compare cells show the first {MAX_CELLS}. " if count > MAX_CELLS else ""
    return f"Of {count} cells the first {MAX_DETAILED_CELLS} have pictures of their own. {compared}The tables hold all of them."


def _all_cells(study: Study) -> list[ShownCell]:
    return select_cells(study.info, study.trials)


def cell_of_trial(cells: Sequence[ShownCell]) -> dict[str, int]:
    """The index of the cell of every shown trial."""
    return {trial: cell.index for cell in cells for trial in cell.trial_ids}


@dataclass(frozen=True)
class CellRows:
    """What a figure draws of several cells: `rows` has a column `cell`, `labels` names the cells that have any rows."""

    rows: pd.DataFrame
    labels: Labels

    def of(self, cell: int) -> pd.DataFrame:
        """The rows of one cell."""
        return self.rows[self.rows["cell"] == cell]


def rows_by_cell(rows: pd.DataFrame, cells: Sequence[ShownCell], reason: str) -> CellRows:
    """Rows of `cells`. Errors: NothingToDraw with `reason` where there are none."""
    drawn = set(require(rows, reason)["cell"])
    return CellRows(rows, tuple((cell.index, cell.label) for cell in cells if cell.index in drawn))


def spread_over_trials(frame: pd.DataFrame, keys: Sequence[str], column: str) -> pd.DataFrame:
    """Mean and standard deviation of `column` over rows with the same `keys`: columns keys, mean, sd, num.

    Values that are null, NaN or infinite count as not measured; sd is NaN with fewer than two. Rows without any
    measured value are left out.
    """
    finite = frame[np.isfinite(frame[column].to_numpy(dtype=float, na_value=np.nan))]
    grouped = finite.groupby(list(keys), observed=True, sort=True)[column]
    result: pd.DataFrame = grouped.agg(mean="mean", sd="std", num="count").reset_index()
    return result.astype({"mean": float, "sd": float})


def require(rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    """`rows`, or NothingToDraw with `reason` where there are none."""
    if rows.empty:
        raise NothingToDraw(reason)
    return rows
