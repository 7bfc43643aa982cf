"""What a study varies: the fields in which its configurations differ, and how they are called where room is short."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trainable.config import FIELDS, is_model_field

_SHORT = {"batch_size": "batch", "learning_rate": "lr"}


def find_factors(configs: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The fields but the seed that are not the same in all configurations, in the order of FIELDS.

    A field that a configuration lacks, as one of an older version does, has its default there. That only some networks have a
    field says `model` already.
    """
    known = list(configs)
    defaults = {name: field.default for name, field in FIELDS.items() if name != "seed"}
    varied = [name for name, value in defaults.items() if len({config.get(name, value) for config in known}) > 1]
    return (*varied, *(name for name in _model_fields(known) if len({c.get(name) for c in known} - {None}) > 1))


def align_fields(configs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The configurations with the same fields of models in all: None where a network has no such field."""
    known = list(configs)
    every = _model_fields(known)
    return [{**config, **{name: config.get(name) for name in every}} for config in known]


def short_name(field: str) -> str:
    """`batch` for `batch_size`, `lr` for `learning_rate`, `depth` for `model_fields.depth`; others as they are."""
    return _SHORT.get(field, field.removeprefix("model_fields."))


def field_title(field: str) -> str:
    """`learning rate` for `learning_rate`, `depth` for `model_fields.depth`."""
    return field.removeprefix("model_fields.").replace("_", " ")


def same_value(a: Any, b: Any) -> bool:
    """Whether a field has the same value twice, numbers but for rounding."""
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def _model_fields(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The fields of the networks of any of the configurations."""
    return list(dict.fromkeys(name for config in configs for name in config if is_model_field(name)))


def network_labels(names: Iterable[str]) -> dict[str, str]:
    """What tells each network (`model_name`) from the others of the same model: `vit, depth 4` where all have the same width."""
    parts = {name: name.split(", ") for name in names}
    labels = {}
    for name, (model, *fields) in parts.items():
        alike = [others for first, *others in parts.values() if first == model]
        labels[name] = ", ".join([model, *(field for field in fields if not all(field in others for others in alike))])
    return labels
