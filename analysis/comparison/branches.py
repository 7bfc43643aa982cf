"""What the branches of a study come to: their losses, where these depart from the base's, and what the noise scale predicts.

A branch point is a cell, an epoch and how the learning rate is scaled; the base branch belongs to every scaling.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparison.critical_batch import NOWHERE, Located, divide_means, find_departure, judge
from analysis.records.frames import FINISHED, Study
from analysis.records.study_json import BRANCH_TOLERANCE
from analysis.statistics import Array

LOSS = "training_set_loss"
NOISE = ("gradient_covariance_trace", "gradient_l2_squared_unbiased")
_POINT = ["cell_index", "config.branch_epoch", "config.branch_epochs", "config.branch_images"]


@dataclass(frozen=True)
class BranchPoint:
    """The branches from one cell after one epoch with one scaling of the learning rate; losses in nats, batch sizes x seeds."""

    cell_index: int  # of the cell in the study
    label: str
    epoch: int
    scaling: str
    images: int  # that each branch saw
    base: int  # the batch size of the parents
    batch_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    losses: Array  # NaN where a branch is missing
    critical: Located
    predicted: Located  # by the noise scale at the branch point

    @property
    def verdict(self) -> str:
        """Whether the noise scale predicts the critical batch size."""
        return judge(self.critical, self.predicted)


def describe_branch(epoch: Any, batch_size: Any, scaling: str) -> str:
    """A branch in words, after those of its cell."""
    rate = {"none": "", "linear": ", rate scaled linearly", "sqrt": ", rate scaled by the root"}.get(
        scaling, f", {scaling}"
    )
    return f"branch after epoch {int(epoch)}: batch {int(batch_size)}{rate}"


def tolerance_of(study: Study) -> float:
    """The tolerance of the study, in nats."""
    found = (study.info.branch or {}).get("tolerance", BRANCH_TOLERANCE)
    return float(found) if isinstance(found, (int, float)) and 0 < found < math.inf else BRANCH_TOLERANCE


def list_points(study: Study) -> list[BranchPoint]:
    """Every branch point of which there are losses, in the order of the study's cells."""
    return list(_find_points(study))


def _find_points(study: Study) -> Iterator[BranchPoint]:
    ended = _ended(study)
    indices = {cell_id: index for index, cell_id in enumerate(study.cells)}
    parents = study.trials.set_index("trial_id")
    ended = ended[ended["parent_id"].isin(parents.index)]
    ended = ended.assign(cell_index=ended["parent_id"].map(parents["cell_id"]).map(indices))
    for _, rows in ended.groupby(_POINT, dropna=False):
        cell_index, epoch = (int(rows[name].iloc[0]) for name in _POINT[:2])
        cell = study.info.cells[cell_index]
        base = int(rows["config.batch_size"].iloc[0])
        predicted = _predict(study, cell.cell_id, epoch)
        is_base = rows["config.branch_batch_size"] == base
        for scaling in [
            s for s in ("linear", "sqrt", "none") if (rows.loc[~is_base, "config.branch_scaling"] == s).any()
        ]:
            own = rows[is_base | (rows["config.branch_scaling"] == scaling)]
            table = own.pivot_table(index="config.branch_batch_size", columns="seed", values="loss", aggfunc="last")
            sizes, losses = tuple(int(size) for size in table.index), table.to_numpy(dtype=np.float64)
            found = find_departure(sizes, losses, base, tolerance_of(study)) if len(sizes) else NOWHERE
            yield BranchPoint(
                cell_index, cell.label, epoch, scaling, int(own["images"].iloc[0]), base, sizes,
                tuple(int(seed) for seed in table.columns), losses, found, predicted,
            )  # fmt: skip


def _ended(study: Study) -> pd.DataFrame:
    """The branches that have ended, with `loss` after their last epoch and `images` that they saw. One that diverged has the loss
    of guessing, the logarithm of the number of classes."""
    branches, epochs = study.branches, study.branch_epochs
    last = epochs.drop_duplicates("trial_id", keep="last").set_index("trial_id")
    guessing = math.log(max(len(study.info.data.get("class_names") or ()), 2))
    losses = branches["trial_id"].map(last[LOSS]).replace([np.inf, -np.inf], np.nan)
    losses = losses.where(branches["status"] != "diverged", guessing)
    per_epoch = branches["config.branch_images"].fillna(0) * branches["config.branch_epochs"]
    ended = branches["status"].isin([FINISHED, "diverged"]) & losses.notna()
    return branches.assign(loss=losses, images=per_epoch)[ended]


def _predict(study: Study, cell_id: str, epoch: int) -> Located:
    """The noise scale of a cell after an epoch, over its seeds."""
    own = study.trials.loc[study.trials["cell_id"] == cell_id, "trial_id"]
    rows = study.epochs[study.epochs["trial_id"].isin(own) & (study.epochs["epoch"] == epoch)]
    trace, square = (rows[name].to_numpy(dtype=np.float64) for name in NOISE)
    return divide_means(trace, square)
