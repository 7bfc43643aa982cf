"""The space of a search against the base that its trials share: its corners, and the longest trials in it.

Every error is a ValueError of one line. Imports neither torch nor Ray nor Optuna.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainable.config import FieldValue, TrialConfig
from trainable.models import complete_config

if TYPE_CHECKING:
    from analysis.search.spec import Space


_LIMIT_EACH_OTHER = (("batch_size", "warmup_epochs", "epochs"), ("optimizer", "momentum", "nesterov", "engine"))


def check_space(space: Space, base: Mapping[str, FieldValue]) -> None:
    """Refuse a space with a corner that is no valid configuration; `base` holds all fields. Errors: ValueError."""
    alone = [[name] for name in space if not any(name in names for names in _LIMIT_EACH_OTHER)]
    together = [[name for name in names if name in space] for names in _LIMIT_EACH_OTHER]
    corners: list[dict[str, FieldValue]] = [
        dict(zip(names, values, strict=True))
        for names in (*together, *alone)
        for values in itertools.product(*(space[name].extremes for name in names))
    ]
    for corner in corners:
        try:
            complete_config(TrialConfig.from_dict({**base, **corner}))
        except ValueError as error:
            raise ValueError(f"[search.space] {error}") from None


def list_corners(space: Space, base: Mapping[str, FieldValue]) -> list[TrialConfig]:
    """The configurations with the smallest and the largest batches, for checks against the data."""
    sizes = space["batch_size"].extremes if "batch_size" in space else (base["batch_size"],)
    return [TrialConfig.from_dict({**base, "batch_size": size}) for size in sizes]


def max_epochs(space: Space, base: Mapping[str, FieldValue]) -> int:
    """The most epochs a searched trial may have."""
    return _largest("epochs", space, base)


def max_warmup_epochs(space: Space, base: Mapping[str, FieldValue]) -> int:
    """The longest warm-up a searched trial may have, in epochs."""
    return _largest("warmup_epochs", space, base)


def _largest(field: str, space: Space, base: Mapping[str, FieldValue]) -> int:
    domain = space.get(field)
    values = domain.extremes if domain else (base[field],)
    return max(int(value) for value in values if isinstance(value, (int, float)))
