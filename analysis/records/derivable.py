"""Keeping what is derived from an object beside it, so that a layer below need not know the layers that derive it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

_Result = TypeVar("_Result")


class Derivable:
    """An object from which other modules derive more: each thing once, however many tables and figures ask for it."""

    def derive(self, build: Callable[[Self], _Result]) -> _Result:
        """`build(self)`, which is called the first time only. Errors: those of `build`, which is then called again."""
        kept: dict[Any, Any] = self.__dict__.setdefault("_derived", {})
        if build not in kept:
            kept[build] = build(self)
        result: _Result = kept[build]
        return result
