"""The values that a claims file may hold, as types that pydantic checks: names, numbers, epochs, configurations. Knows no file and no study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from analysis.metrics import list_metrics
from analysis.records.phases import KINDS
from trainable.config import TrialConfig, flatten
from trainable.records.columns import COLUMNS

STATISTICS = ("median", "mean", "min", "max", "log_spread")


class Table(BaseModel):
    """A table has its keys and no others."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            raise ValueError("is not a table")
        if unknown := [key for key in content if key not in cls.model_fields]:
            raise ValueError(f"unknown key {unknown[0]!r}; keys are {', '.join(cls.model_fields)}")
        return content


def one_of(names: Iterable[str] | Callable[[], Iterable[str]]) -> Any:
    """The type of one of these names; a function lists those that there are when the file is read."""

    def check(value: Any) -> Any:
        known = list(names() if callable(names) else names)
        if value not in known:
            raise ValueError(f"is not one of {', '.join(known)}")
        return value

    return Annotated[Any, AfterValidator(check)]


def some_of(kind: Any) -> Any:
    """The type of a list of values of one type, at least one."""
    return Annotated[tuple[kind, ...], Field(min_length=1)]


def _check_selector(value: dict[str, Any]) -> dict[str, Any]:
    if "seed" in value:
        raise ValueError("a cell has no seed")
    wanted = flatten(value)
    config = TrialConfig.from_dict(wanted).to_dict()
    return {field: config[field] for field in wanted}


def _check_needs(value: dict[str, Any]) -> dict[str, Any]:
    found = Needed.model_validate(value)
    settings = {name: wanted for name, wanted in found if wanted is not None}
    return settings | (_check_selector(found.model_extra) if found.model_extra else {})


def _check_epochs(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if epochs[0] > epochs[1]:
        raise ValueError("the first epoch is after the last")
    return epochs


Text = Annotated[StrictStr, Field(min_length=1)]
Count = Annotated[StrictInt, Field(ge=1, le=100_000)]
Epochs = Annotated[tuple[Count, ...], Field(min_length=2, max_length=2), AfterValidator(_check_epochs)]  # both included
MetricName = one_of(list_metrics)
Selector = Annotated[dict[str, Any], Field(min_length=1), AfterValidator(_check_selector)]  # fields of a configuration
Needs = Annotated[dict[str, Any], Field(min_length=1), AfterValidator(_check_needs)]


class Needed(BaseModel, extra="allow"):
    """What a study must be like besides fields of its configuration, which are the others."""

    data_source: Text | None = None  # how it begins
    data_fingerprint: Text | None = None
    complete_data: StrictBool | None = None  # all images of the data set are in use
    hardware: Text | None = None  # words in its name
    loss: Text | None = None


def columns_of(kind: str) -> tuple[str, ...]:
    """The columns of records that hold measurements."""
    names = ("trial_id", "epoch", "step", "layer", "group", "kind", "num_elements")
    return tuple(column.name for column in COLUMNS[kind] if column.name not in names)


# The fields of queries about rows of layers; groups have the names that the network gives them.
ROWS: Mapping[str, Any] = {
    "column": one_of(columns_of("layers")), "statistic": one_of(STATISTICS), "groups": some_of(Text),
    "kinds": some_of(one_of(KINDS)), "cell": Selector,
}  # fmt: skip
