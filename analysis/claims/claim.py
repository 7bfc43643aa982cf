"""What a claim is. Read by pydantic, whose context is the [needs] tables of the file and the kinds of claims. Knows no file and no study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationInfo, model_validator

from analysis.claims.fields import Count, Table, Text, one_of, some_of
from analysis.toml_values import Number


class ClaimsError(ValueError):
    """A claims file that cannot be used; the message names file, line, claim and what is wrong."""


@dataclass(frozen=True)
class Query:
    """What to measure: `kind` and the fields that its ClaimKind has, checked."""

    kind: str
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields.get(name)

    @property
    def selectors(self) -> list[Mapping[str, Any]]:
        """The cells that it names: those of `cells`, or `cell` and `other`."""
        return list(self["cells"] or [self[name] for name in ("cell", "other") if self[name]])


@dataclass(frozen=True)
class Expectation:
    """The region that counts as reproduced, `low` to `high`. `strict`: the whole interval must lie in it (directions)."""

    low: float = -math.inf
    high: float = math.inf
    value: float | None = None
    strict: bool = False
    order: bool = False


def _read_query(content: Any, info: ValidationInfo) -> Query:
    kinds = info.context["kinds"]  # type: ignore[index]
    kind: Any = content.get("kind") if isinstance(content, dict) else None
    if kind not in list(kinds):
        raise ValueError(f"kind {repr(kind)[:40]} is not one of {', '.join(kinds)}")
    fields = kinds[kind].table.model_validate({n: value for n, value in content.items() if n != "kind"})
    query = Query(kind, dict(fields))
    if query["cell"] and query["cells"]:
        raise ValueError("has both cell and cells")
    return query


def _check_range(bounds: tuple[float, ...]) -> tuple[float, ...]:
    if bounds[0] >= bounds[1]:
        raise ValueError("is empty: low is not below high")
    return bounds


_Bound = Annotated[Number, AfterValidator(float)]


class _Expected(Table):
    """`expect` as it is written."""

    value: _Bound | None = None
    tolerance: Annotated[_Bound, Field(ge=0)] | None = None
    range: Annotated[tuple[_Bound, ...], Field(min_length=2, max_length=2), AfterValidator(_check_range)] | None = None
    at_least: _Bound | None = None
    at_most: _Bound | None = None
    direction: Literal["positive", "negative"] | None = None
    order: Literal[True] | None = None


def _read_expectation(content: Any) -> Expectation:
    match [(name, given) for name, given in _Expected.model_validate(content) if given is not None]:
        case [("value", value), ("tolerance", tolerance)]:
            return Expectation(value - tolerance, value + tolerance, value)
        case [("range", (low, high))]:
            return Expectation(low, high)
        case [("at_least", low)]:
            return Expectation(low=low)
        case [("at_most", high)]:
            return Expectation(high=high)
        case [("direction", "positive")]:
            return Expectation(low=0.0, strict=True)
        case [("direction", "negative")]:
            return Expectation(high=0.0, strict=True)
        case [("order", True)]:
            return Expectation(order=True)
    raise ValueError(
        "is none of { value, tolerance }, { range = [low, high] }, { at_least }, { at_most }, "
        '{ direction = "positive" or "negative" }, { order = true }'
    )


def _find_needs(names: Any, info: ValidationInfo) -> dict[str, Any]:
    """The [needs] tables of these names, which the context holds, as one."""
    known = info.context["needs"]  # type: ignore[index]
    found = TypeAdapter(some_of(one_of(known))).validate_python(names) if names else ()
    return {field: wanted for name in found for field, wanted in known[name].items()}


class Claim(Table):
    """One published statement and how it is checked."""

    id: Text
    section: Text
    statement: Text
    query: Annotated[Query, PlainValidator(_read_query)]
    expect: Annotated[Expectation, PlainValidator(_read_expectation)]
    needs: Annotated[dict[str, Any], PlainValidator(_find_needs)] = Field(default_factory=dict)
    min_seeds: Count = 1
    source: Literal["text only"] | None = None  # nothing that the published program puts out says so
    reading: Text | None = None  # how the statement is read, and the other reading

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Claim:
        kinds = info.context["kinds"]  # type: ignore[index]
        if (self.source is None) != (self.reading is None):
            raise ValueError(f"{'source' if self.reading else 'reading'} is missing: source and reading go together")
        if self.expect.order != kinds[self.query.kind].ordered:
            ordered = " and ".join(kind.name for kind in kinds.values() if kind.ordered)
            raise ValueError(f"expect = {{ order = true }} belongs to queries of kind {ordered}, and only to them")
        return self


@dataclass(frozen=True)
class ClaimSet:
    """The claims of one file."""

    title: str
    source: str
    claims: tuple[Claim, ...]
