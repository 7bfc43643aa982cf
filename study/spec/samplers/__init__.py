"""Samplers, which suggest a search's trials: every file of this package declares one, and adding a file adds one.

A sampler is built anew for every trial, so a suggestion follows from its seed and from what is in the journal alone: a search
that was killed and went on suggests what an uninterrupted one does. A sampler that keeps something between two trials, other
than in the journal, would break that. Optuna is imported by what `build` calls, not here: it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainable.discovery import discover

if TYPE_CHECKING:
    import optuna

    from analysis.search.spec import SearchSpec

STARTUP_TRIALS = 10  # suggested at random before a model of the objective is trusted


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a search's next trial is suggested. `build` gets the search and a seed that follows from its seed and the trial."""

    name: str
    meaning: str  # what `--plan` and the documentation say of it
    build: Callable[[SearchSpec, int], optuna.samplers.BaseSampler]
    max_objectives: int = 2
    packages: tuple[str, ...] = ()  # Python packages that it needs besides Optuna


def list_samplers() -> dict[str, Sampler]:
    """Every sampler, by name."""
    return discover(__name__, Sampler)
