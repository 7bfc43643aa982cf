"""The metrics of a cell: one number per trial, used alike by grid files, tables, statistics and claims.

A module declares one (or several) as `METRIC = Metric(...)`, and nothing else needs to know it. Knows no pandas, so that a
command line can check names at once; records/summary.py asks for the values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

from trainable.discovery import discover

if TYPE_CHECKING:
    import pandas as pd

MetricKind = Literal["accuracy", "points", "loss", "count", "seconds"]


class TrialEpochs:
    """The epoch records of all trials: `every` row, and the `first` and `last` one of each trial, indexed by trial_id."""

    def __init__(self, epochs: pd.DataFrame) -> None:
        """`epochs` are sorted by trial and epoch."""
        self.every = epochs
        self.by_trial = epochs.groupby("trial_id", sort=False)
        self.first = self.by_trial.head(1).set_index("trial_id")
        self.last = self.by_trial.tail(1).set_index("trial_id")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number per trial.

    kind: how it is written; fractions that people read as a percentage are of the kind accuracy or points.
    measure: the values by trial_id; trials that did not complete are left out by who asks.
    better: which direction is an improvement, empty where neither is.
    compared: among the metrics that cells are compared by.
    timed: counts only where a trial had its device to itself, on the hardware that times are taken from.
    optional: left out of the comparison of a study in which no trial has it.
    position: its place among the metrics, after smaller ones.
    """

    name: str
    title: str
    kind: MetricKind
    meaning: str
    measure: Callable[[TrialEpochs], pd.Series]
    better: Literal["higher", "lower", ""] = ""
    compared: bool = True
    timed: bool = False
    optional: bool = False
    position: int = 1000

    @property
    def in_percent(self) -> bool:
        """A fraction that people read as a percentage, and that the equivalence margin is about."""
        return self.kind in ("accuracy", "points")


def list_metrics() -> dict[str, Metric]:
    """Every metric that is declared, by name, in the order of their positions."""
    return _discover(tuple(__path__))


@cache
def _discover(folders: tuple[str, ...]) -> dict[str, Metric]:
    """Once per `folders`: the path of the package, to which a folder can be added."""
    return dict(sorted(discover(__name__, Metric).items(), key=lambda item: item[1].position))
