"""Dataclasses that are kept as JSON objects, checked when they are read; what a newer version added to one is kept.

A key that this version does not know goes into `unknown` and is written back; a field that the file lacks has its default.
Imports pydantic only where something is read, because the command lines read nothing before their first line.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trainable.errors import IncompatibleVersionError, first_problem

if TYPE_CHECKING:
    from pydantic import TypeAdapter

StoredT = TypeVar("StoredT", bound="Stored")


@dataclass(frozen=True)
class Stored:
    """A JSON object with the fields of a subclass and, in `unknown`, those that only another version of it has."""

    unknown: dict[str, Any] = field(default_factory=dict, kw_only=True, hash=False)

    def to_stored(self) -> dict[str, Any]:
        """The JSON object; `from_stored` reads it."""
        return asdict(self, dict_factory=_flat)


def from_stored(kind: type[StoredT], content: Any) -> StoredT:
    """The object that `to_stored` wrote, in this or another version. Errors: ValueError naming the field, in one line.

    IncompatibleVersionError where only a newer version can understand it.
    """
    from pydantic import ValidationError

    text = json.dumps(set_unknown_apart(kind, content), allow_nan=False)
    try:
        return cast(StoredT, _adapter(cast(Any, kind)).validate_json(text, strict=True))
    except ValidationError as error:
        newer = any(isinstance(found.get("ctx", {}).get("error"), IncompatibleVersionError) for found in error.errors())
        raise (IncompatibleVersionError if newer else ValueError)(first_problem(error)) from error


def set_unknown_apart(kind: type[Stored], content: Any) -> Any:
    """A JSON object with the keys that are no field of `kind` under the key `unknown`; anything else as it is."""
    if not isinstance(content, Mapping):
        return content
    known = {f.name for f in fields(kind)} - {"unknown"}
    values = {name: value for name, value in content.items() if name in known}
    return {**values, "unknown": {name: value for name, value in content.items() if name not in known}}


def _flat(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    unknown = values.pop("unknown", {})
    return {**values, **unknown}


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
