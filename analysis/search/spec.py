"""The [search] table: what is searched, how, for how long and what becomes of the winners. One reader for both its homes.

A grid file asks for a search in this form, and study.json keeps it in the same form. Which samplers, pruners and objectives
there are is not known here: a study may come from an installation that has others. Importing this imports pydantic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)
from pydantic.dataclasses import dataclass

from analysis.toml_values import Number, read_table
from trainable.config import BRANCH_FIELDS, FIELDS, FieldValue, check_field_name, is_model_field
from trainable.records.columns import EPOCH_INSTRUMENTS

Scale = Literal["log", "linear", "choices"]
MAX_SEARCH_TRIALS = 10_000
MAX_SEED = 200_000
_NOT_SEARCHED = {
    "seed": "every searched trial has a seed of its own",
    "dataset": "a study has one data set",
    "image_size": "a study has one data set",
    "model": "each network has fields of its own; search those, as model_fields.NAME",
    "model_source": "it follows from the model",
    "train_limit": "it decides what is learned from, not how",
    "test_limit": "searched trials never see the test set",
    "validation_size": "trials validated on different images cannot be compared",
    **dict.fromkeys(
        [
            "log_every_steps",
            "instrument_every_steps",
            *(e.every for e in EPOCH_INSTRUMENTS if isinstance(e.every, str)),
        ],
        "it changes what is recorded, not what is trained",
    ),
    **dict.fromkeys(BRANCH_FIELDS, "branches are no trials of a search"),
}


def _check_choices(values: tuple[FieldValue, ...]) -> tuple[FieldValue, ...]:
    if any(values.count(value) > 1 for value in values):
        raise ValueError("a choice is given twice")
    return values


def _check_searched(name: str) -> str:
    check_field_name(name)
    if name in _NOT_SEARCHED:
        raise ValueError(f"{name} cannot be searched: {_NOT_SEARCHED[name]}")
    return name


def _list_names(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not 1 <= len(names) <= 2:
        raise ValueError("give one name, or a list of two")
    return names


def _list_seeds(value: Any) -> Any:
    """`3` -> [0, 1, 2]; a list as it is."""
    seeds = list(range(value)) if type(value) is int and 1 <= value <= 1000 else value
    if not isinstance(seeds, (list, tuple)) or not seeds:
        raise ValueError("give a number of seeds from 1 to 1,000, or a list of seeds")
    return seeds


@dataclass(frozen=True)
class Choices:
    """A field that takes one of these values."""

    choices: Annotated[tuple[Any, ...], Field(min_length=2), AfterValidator(_check_choices)]

    @property
    def scale(self) -> Scale:
        """How the values are spread."""
        return "choices"

    @property
    def extremes(self) -> tuple[FieldValue, ...]:
        """All values: any of them may be the one that does not fit."""
        return self.choices

    def holds(self, value: Any) -> bool:
        """True for one of the values."""
        return value in self.choices

    def to_dict(self) -> dict[str, Any]:
        """As in the grid file."""
        return {"choices": list(self.choices)}

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.choices)


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included; on a logarithmic axis, or in steps from low."""

    low: Number
    high: Number
    log: StrictBool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _check(self) -> Range:
        low, high, step = self.low, self.high, self.step
        if low > high:
            raise ValueError(f"low {low:g} is above high {high:g}; swap them")
        if low == high:
            raise ValueError(f"low and high are both {low:g}, which leaves nothing to search; set it in [base]")
        if self.log and low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, not at {low:g}")
        if self.log and step is not None:
            raise ValueError("a logarithmic range has no step; leave out one of the two")
        if step is not None and not 0 < step <= high - low:
            raise ValueError(f"step {step:g} does not fit between low {low:g} and high {high:g}")
        return self

    @property
    def scale(self) -> Scale:
        """How the values are spread."""
        return "log" if self.log else "linear"

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


def _kind_of_domain(value: Any) -> str | None:
    if isinstance(value, (Choices, Range)):
        return f"<{type(value).__name__}>"
    keys = set(value) if isinstance(value, dict) else set()
    if keys == {"choices"}:
        return "<Choices>"
    return "<Range>" if {"low", "high"} <= keys <= {"low", "high", "log", "step"} else None


def _check_domains(space: dict[str, Choices | Range]) -> dict[str, Choices | Range]:
    for name, domain in space.items():
        if isinstance(domain, Choices):
            continue
        if name == "width" or is_model_field(name):
            raise ValueError(
                f"{name}: give choices; every {name.removeprefix('model_fields.')} is a network of its own"
            )
        numbers = [domain.low, domain.high, domain.step or 0]
        if is_whole(name) and any(float(number) != int(number) for number in numbers):
            raise ValueError(f"{name} is a whole number, and so are low, high and step")
    return space


def is_whole(name: str) -> bool:
    """True for a configuration field of whole numbers."""
    return str(FIELDS[name].type).startswith("int")


Domain = Annotated[
    Annotated[Choices, Tag("<Choices>")] | Annotated[Range, Tag("<Range>")],
    Discriminator(
        _kind_of_domain,
        custom_error_type="domain",
        custom_error_message="give { choices = [...] }, or { low = ..., high = ... } with log = true or step = ...",
    ),
]
Space = Annotated[
    dict[Annotated[str, AfterValidator(_check_searched)], Domain], Field(min_length=1), AfterValidator(_check_domains)
]  # fmt: skip
Budget = Annotated[Number, Field(gt=0)]


@dataclass(frozen=True, config=ConfigDict(validate_by_name=True))
class SearchSpec:
    """One search: the searched fields in the order of the file, the methods by name, the budgets, the winners."""

    space: Space
    sampler: StrictStr = "tpe"
    pruner: StrictStr = "asha"
    objectives: Annotated[tuple[StrictStr, ...], BeforeValidator(_list_names)] = Field(
        default=("val_accuracy",), alias="objective"
    )
    trials: Annotated[StrictInt, Field(ge=1, le=MAX_SEARCH_TRIALS)] | None = None
    gpu_hours: Budget | None = None
    wall_time_h: Budget | None = None
    top_k: Annotated[StrictInt, Field(ge=1, le=100)] = 3
    confirmation_seeds: Annotated[tuple[StrictInt, ...], BeforeValidator(_list_seeds)] | None = (
        None  # None: the study's
    )
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_SEED)] = 0
    enqueued: tuple[dict[str, Any], ...] = ()  # what is tried first: the cells of the grid file, in the space

    def to_dict(self) -> dict[str, Any]:
        """The table, as study.json keeps it."""
        return {
            "sampler": self.sampler,
            "pruner": self.pruner,
            "objective": self.objectives[0] if len(self.objectives) == 1 else list(self.objectives),
            "trials": self.trials,
            "gpu_hours": self.gpu_hours,
            "wall_time_h": self.wall_time_h,
            "top_k": self.top_k,
            "confirmation_seeds": self.confirmation_seeds and list(self.confirmation_seeds),
            "seed": self.seed,
            "space": {name: domain.to_dict() for name, domain in self.space.items()},
            "enqueued": [dict(values) for values in self.enqueued],
        }

    def describe_budget(self) -> str:
        """The budgets in words."""
        parts = [
            f"{self.trials} trials" if self.trials is not None else "",
            f"{self.gpu_hours:g} GPU hours" if self.gpu_hours is not None else "",
            f"{self.wall_time_h:g} h" if self.wall_time_h is not None else "",
        ]
        return " or ".join(filter(None, parts))


def read_search(table: Mapping[str, Any]) -> SearchSpec:
    """The search that a table describes; keys that are not known are passed over. Errors: ValueError in one line."""
    return read_table(SearchSpec, table)
