"""Tables of TOML files, checked by pydantic: what is refused is said in one line and in TOML's words. Importing this imports pydantic."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, TypeAdapter, ValidationError

T = TypeVar("T")
_WORDS = {
    "Field required": "is missing",
    "Tuple": "List",
    "tuple": "list",
    "Dictionary": "Table",
    "dictionary": "table",
}


def _check_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise ValueError("is not a number")
    return value  # whole numbers stay whole


Number = Annotated[float, PlainValidator(_check_number)]


def read_table(kind: type[T], content: Any, context: Any = None) -> T:
    """`content` as pydantic makes it a `kind`. Errors: ValueError in one line, naming the first value that was refused, and why."""
    try:
        return TypeAdapter(kind).validate_python(content, context=context)
    except ValidationError as error:
        raise ValueError(_describe(error)) from None


def _describe(error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"] if not str(part).startswith(("<", "[")))
    said = str(found.get("ctx", {}).get("error", found["msg"])).removeprefix("Input ")
    for word, toml_word in _WORDS.items():
        said = said.replace(word, toml_word)
    given = found["input"]
    if found["type"].endswith("too_short") and not given and found["ctx"]["min_length"] == 1:
        said = "is empty"
    is_shown = place and not isinstance(given, (dict, list, tuple)) and repr(given) not in said
    place += f" {repr(given)[:40]}" if is_shown else ""
    return (f"{place}: " if place else "") + said.splitlines()[0][:500]
