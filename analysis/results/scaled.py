"""Columns in the unit that people see, beside those that hold the raw numbers: accuracies in percentage points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.metrics import list_metrics


def add_shown(
    frame: pd.DataFrame, names: Sequence[str], scale: float | npt.NDArray[np.float64] = 100.0
) -> pd.DataFrame:
    """`frame` with a column `shown_NAME` for each of these columns, its values times `scale` (one, or one per row)."""
    return frame.assign(**{f"shown_{name}": frame[name] * scale for name in names})


def points_of(metrics: Iterable[str]) -> npt.NDArray[np.float64]:
    """What differences in these metrics are multiplied by to be shown: 100 (points) of accuracies, else 1."""
    known = list_metrics()
    return np.where([known[name].in_percent for name in metrics], 100.0, 1.0)
