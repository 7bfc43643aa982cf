"""The space of a search: which fields of a trial are searched, and between which values.

Every error is a ValueError of one line. Imports neither torch nor Ray nor Optuna.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainable.config import FIELDS, FieldValue, TrialConfig, check_field_name

_NOT_SEARCHED = {
    "seed": "every searched trial has a seed of its own",
    "dataset": "a study has one data set",
    "train_limit": "it decides what is learned from, not how",
    "test_limit": "searched trials never see the test set",
    "validation_size": "trials validated on different images cannot be compared",
    "log_every_steps": "it changes what is recorded, not what is trained",
    "instrument_every_steps": "it changes what is recorded, not what is trained",
    "noise_scale_every_epochs": "it changes what is recorded, not what is trained",
}


@dataclass(frozen=True)
class Choices:
    """A parameter that takes one of these values."""

    values: tuple[FieldValue, ...]

    @property
    def extremes(self) -> tuple[FieldValue, ...]:
        """All values: any of them may be the one that does not fit."""
        return self.values

    def holds(self, value: Any) -> bool:
        """True for one of the values."""
        return value in self.values

    def to_dict(self) -> dict[str, Any]:
        """As in the grid file."""
        return {"choices": list(self.values)}

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included; on a logarithmic axis, or in steps from low."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def extremes(self) -> tuple[FieldValue, ...]:
        """Both ends."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """True within the ends, and on a step where there are steps."""
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def to_dict(self) -> dict[str, Any]:
        """As in the grid file."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, "log": self.log, **step}

    def __str__(self) -> str:
        how = ", logarithmic" if self.log else f" in steps of {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{how}"


Space = dict[str, Choices | Range]


def parse_space(content: Any) -> Space:
    """The [search.space] table of a grid file. Errors: ValueError."""
    if not isinstance(content, dict) or not content:
        raise ValueError("[search.space] is missing: give each searched field its choices, or low and high")
    return {name: _domain(name, value) for name, value in content.items()}


def check_space(space: Space, base: Mapping[str, FieldValue]) -> None:
    """Refuse a space with a corner that is no valid configuration; `base` holds all fields. Errors: ValueError."""
    together = [name for name in ("batch_size", "warmup_epochs", "epochs") if name in space]  # these limit each other
    corners: list[dict[str, FieldValue]] = [
        dict(zip(together, values, strict=True))
        for values in itertools.product(*(space[name].extremes for name in together))
    ]
    corners += [{name: value} for name in space if name not in together for value in space[name].extremes]
    for corner in corners:
        try:
            TrialConfig.from_dict({**base, **corner})
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


def _domain(name: str, value: Any) -> Choices | Range:
    check_field_name(name)
    if name in _NOT_SEARCHED:
        raise ValueError(f"[search.space] {name} cannot be searched: {_NOT_SEARCHED[name]}")
    where = f"[search.space] {name}"
    if isinstance(value, dict) and set(value) == {"choices"}:
        choices = value["choices"]
        if not isinstance(choices, list) or len(choices) < 2:
            raise ValueError(f"{where}: choices = [...] needs two values or more")
        if any(choices.count(choice) > 1 for choice in choices):
            raise ValueError(f"{where}: a choice is given twice")
        return Choices(tuple(choices))
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log", "step"}:
        raise ValueError(
            f"{where}: give {{ choices = [...] }}, or {{ low = ..., high = ... }} with log = true or step = ..."
        )
    if name == "width":
        raise ValueError(f"{where}: give choices; every width is a network of its own")
    return _range(where, name, value)


def _range(where: str, name: str, value: dict[str, Any]) -> Range:
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    whole = str(FIELDS[name].type).startswith("int")
    numbers = [low, high, *([] if step is None else [step])]
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) or not abs(n) < 1e300 for n in numbers):
        raise ValueError(f"{where}: low, high and step are numbers")
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log is true or false")
    if low > high:
        raise ValueError(f"{where}: low {low:g} is above high {high:g}; swap them")
    if low == high:
        raise ValueError(f"{where}: low and high are both {low:g}, which leaves nothing to search; set it in [base]")
    if log and low <= 0:
        raise ValueError(f"{where}: a logarithmic range starts above 0, not at {low:g}")
    if log and step is not None:
        raise ValueError(f"{where}: a logarithmic range has no step; leave out one of the two")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"{where}: step {step:g} does not fit between low {low:g} and high {high:g}")
    if whole and any(float(n) != int(n) for n in numbers):
        raise ValueError(f"{where}: {name} is a whole number, and so are low, high and step")
    return Range(low, high, log, step, whole)
