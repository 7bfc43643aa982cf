"""What a study varies: the fields in which its configurations differ, and how they are called where room is short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainable.config import FIELDS

_SHORT = {"batch_size": "batch", "learning_rate": "lr"}


def find_factors(configs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fields but the seed that are not the same in all configurations, in the order of FIELDS.

    A field that a configuration lacks, as one of an older version does, has its default there.
    """
    known = list(configs)
    return tuple(
        name
        for name, field in FIELDS.items()
        if name != "seed" and len({config.get(name, field.default) for config in known}) > 1
    )


def short_name(field: str) -> str:
    """`batch` for `batch_size`, `lr` for `learning_rate`; others as they are."""
    return _SHORT.get(field, field)
