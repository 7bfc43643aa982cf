"""The fields of a configuration: how one is declared, what values it allows, and how they are typed. Knows no particular field."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

FieldValue = bool | int | float | str | None
_WORDS: dict[str, FieldValue] = {"none": None, "null": None, "true": True, "false": False}
_NAME = re.compile(r"\w[\w.]{0,127}(:[A-Za-z_]\w{0,127})?", re.ASCII)


def option(
    default: FieldValue, doc: str, *, low: float | None = None, high: float | None = None, below: float | None = None,
    above: float | None = None,
) -> Any:  # fmt: skip
    """A dataclass field with its meaning and range; `low` and `high` are allowed values, `above` and `below` are not."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "above": above, "below": below})


def value_text(value: FieldValue) -> str:
    """A value as one types it."""
    return next((word for word, meaning in _WORDS.items() if value is meaning), str(value))


def parse_value(text: str) -> FieldValue:
    """What somebody has typed: none, true, false, a number, or text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def checked(spec: dataclasses.Field[Any], kind: Any, value: Any) -> FieldValue:
    """`value` in the type of its field, `kind`, or a ValueError that says what is allowed."""
    optional = isinstance(kind, types.UnionType)
    if optional:
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{spec.name}={value!r} is not one of {', '.join(choices)}")
        return value
    if kind is str:
        if not isinstance(value, str) or (value != spec.default and not _NAME.fullmatch(value)):
            raise ValueError(f"{spec.name}={value!r} is not a name, or package.module:function")
        return value
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{spec.name}={value!r} is not true or false")
        return value
    number = _as_number(kind, value)
    if number is None or not _in_range(spec.metadata, number):
        noun = "a whole number" if kind is int else "a number"
        none = " or none" if optional else ""
        raise ValueError(f"{spec.name}={value!r} is not {noun}{_range_text(spec.metadata)}{none}")
    return number


def _as_number(kind: type, value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    if kind is int:
        return int(value) if float(value).is_integer() and abs(value) < 2**53 else None
    return float(value) if abs(value) < 1e300 else None


def _in_range(limits: Mapping[str, Any], value: float) -> bool:
    low, high, above, below = limits["low"], limits["high"], limits["above"], limits["below"]
    return (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
        and (below is None or value < below)
    )


def _range_text(limits: Mapping[str, Any]) -> str:
    parts = [
        text.format(limits[key])
        for key, text in (("low", ">= {}"), ("above", "> {}"), ("high", "<= {}"), ("below", "< {}"))
        if limits[key] is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""
