"""Which cells are the best in the primary metric, or cannot be told from the best, however many cells there are."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.comparison.pairs import find_primary, values_by_seed
from analysis.metrics import Metric
from analysis.records.frames import Study


def rank_cells(study: Study) -> pd.DataFrame:
    """`rank_cells_by` the primary metric."""
    return rank_cells_by(study, find_primary(study))


def rank_cells_by(study: Study, metric: Metric) -> pd.DataFrame:
    """One row per cell, the best mean first: cell_id, label, seeds, mean, sd, behind [low, high], may_be_best.

    `behind` is the cell's mean less the best of the others'; the intervals hold at once (Hsu). In the metric's own unit, and in
    its own direction: of a loss, behind is positive for a worse cell.
    """
    values = values_by_seed(study, metric.name)
    sign = -1.0 if metric.better == "lower" else 1.0
    stopping = study.info.stopping
    looks = None if stopping is None else (stopping["first"], stopping["most"])
    found = statistics.compare_with_best(sign * values.to_numpy(dtype=np.float64), looks)
    ends = sign * found.low, sign * found.high
    frame = pd.DataFrame(
        {
            "cell_id": values.index, "label": [cell.label for cell in study.cells.values()],
            "seeds": values.notna().sum(axis=1).to_numpy(), "mean": values.mean(axis=1).to_numpy(),
            "sd": values.std(axis=1).to_numpy(), "behind": sign * found.difference, "low": np.minimum(*ends),
            "high": np.maximum(*ends), "may_be_best": found.may_be_best & values.notna().any(axis=1).to_numpy(),
        }
    )  # fmt: skip
    return frame.sort_values("mean", ascending=sign < 0, kind="stable", ignore_index=True)
