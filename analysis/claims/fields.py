"""The values that a claims file may hold, each with its check: names, numbers, epochs, configurations.

A check takes a parsed TOML value and the name of its field and returns the value, or raises ValueError saying what is
wrong. Knows no file and no study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.metrics import list_metrics
from analysis.records.phases import KINDS
from trainable.config import TrialConfig, flatten
from trainable.records.columns import COLUMNS

STATISTICS = ("median", "mean", "min", "max", "log_spread")
# What a study must be like besides its configuration: how its data source begins, the fingerprint of its data, all images
# of the data set in use, words in the name of the hardware, and the loss.
NEEDS = {"data_source": str, "data_fingerprint": str, "complete_data": bool, "hardware": str, "loss": str}


def check_keys(content: Mapping[str, Any], required: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """A table has its keys and no others."""
    if missing := [key for key in required if key not in content]:
        raise ValueError(f"{missing[0]!r} is missing")
    if unknown := [key for key in content if key not in allowed]:
        raise ValueError(f"unknown key {unknown[0]!r}; keys are {', '.join(allowed)}")


def check_type(value: Any, kind: type, name: str) -> None:
    """A text that is not empty, or true or false."""
    if not isinstance(value, kind) or value == "":
        raise ValueError(f"{name} is not {'a text' if kind is str else 'true or false'}")


def check_number(value: Any, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise ValueError(f"{name} is not a number")
    return float(value)


def one_of(choices: tuple[str, ...]) -> Callable[[Any, str], str]:
    """A check for one of these names."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} = {value!r} is not one of {', '.join(choices)}")
        return value

    return check


def some_of(choices: tuple[str, ...]) -> Callable[[Any, str], tuple[str, ...]]:
    """A check for a list of these names."""
    one = one_of(choices)

    def check(value: Any, name: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} is not a list of names")
        return tuple(one(item, name) for item in value)

    return check


def check_selector(value: Any, name: str) -> dict[str, Any]:
    """Fields of a configuration with values that it allows, other than the seed."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{name} is not a table of configuration fields")
    if "seed" in value:
        raise ValueError(f"{name}: a cell has no seed")
    wanted = flatten(value)
    config = TrialConfig.from_dict(wanted).to_dict()
    return {field: config[field] for field in wanted}


def check_selectors(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    """A list of what `check_selector` takes, for several cells."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is not a list of tables")
    return tuple(check_selector(item, name) for item in value)


def check_needs(value: Any, name: str) -> dict[str, Any]:
    """What a study must be like: fields of a configuration, and the settings of NEEDS."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{name} is not a table")
    settings = {setting: value[setting] for setting in NEEDS if setting in value}
    for setting, wanted in settings.items():
        check_type(wanted, NEEDS[setting], f"{name}.{setting}")
    config = {field: wanted for field, wanted in value.items() if field not in NEEDS}
    return settings | (check_selector(config, name) if config else {})


def check_metric(value: Any, name: str) -> str:
    """A metric of cells."""
    return one_of(tuple(list_metrics()))(value, name)


def check_count(value: Any, name: str) -> int:
    """A whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        raise ValueError(f"{name} is not a whole number from 1")
    return value


def check_epochs(value: Any, name: str) -> tuple[int, int]:
    """First and last epoch of a phase, both part of it."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} is not [first, last]")
    first, last = (check_count(epoch, name) for epoch in value)
    if first > last:
        raise ValueError(f"{name}: the first epoch is after the last")
    return first, last


def check_text(value: Any, name: str) -> str:
    """A text that is not empty."""
    check_type(value, str, name)
    return str(value)


def columns_of(kind: str) -> tuple[str, ...]:
    """The columns of records that hold measurements."""
    names = ("trial_id", "epoch", "step", "layer", "group", "kind", "num_elements")
    return tuple(column.name for column in COLUMNS[kind] if column.name not in names)


def check_groups(value: Any, name: str) -> tuple[str, ...]:
    """Groups of layers, by the names that the network gives them."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is not a list of names of groups of layers")
    return tuple(check_text(item, name) for item in value)


# The fields of queries about rows of layers.
ROWS: Mapping[str, Callable[[Any, str], Any]] = {
    "column": one_of(columns_of("layers")), "statistic": one_of(STATISTICS), "groups": check_groups,
    "kinds": some_of(KINDS), "cell": check_selector,
}  # fmt: skip
