"""Pruners, which end trials that are behind: every file of this package declares one, and adding a file adds one.

A pruner looks at nothing but intermediate values in the journal, so that a search that was killed and went on prunes what an
uninterrupted one does. Optuna is imported by what `build` calls, not here: it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trainable.discovery import discover

if TYPE_CHECKING:
    import optuna


class Judge(Protocol):
    """What decides; Optuna's own pruners are judges."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether the trial, whose last intermediate value is that of the epoch it has just finished, is to end."""


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """How trials are ended early. Its functions get the most epochs of a trial, and the most of them that are warm-up."""

    name: str
    meaning: str  # what `--plan` and the documentation say of it
    build: Callable[[int, int], Judge] | None  # None: no trial is ever ended
    expect_epochs: Callable[[int, int], float] | None = None  # of a trial on average, where that is known beforehand


def list_pruners() -> dict[str, Pruner]:
    """Every pruner, by name."""
    return discover(__name__, Pruner)
