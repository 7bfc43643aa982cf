"""Claims files: published statements as data. TOML -> checked claims; never code, nothing in a file is ever executed.

A file has a title, tables [needs.NAME] of what a study must be like, and any number of [[claim]] entries:

    id         short name, unique in the file
    section    where in the publication
    statement  what is claimed, in own words
    query      what to measure: kind = the name of a ClaimKind and its fields
    expect     when it counts as reproduced: { value, tolerance }, { range = [low, high] }, { at_least }, { at_most },
               { direction = "positive" | "negative" } or { order = true }
    needs      names of [needs] tables; of later ones entries replace those of earlier ones; none if left out
    min_seeds  fewest completed seeds; 1 if left out
    source     "text only" where no output of the published program says so; left out otherwise
    reading    of a claim from the text only: how it is read, so that the program supports it, and what else it may mean

Every error is a ClaimsError that names file, line and claim. Knows no study.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from analysis.claims.claim import Claim, ClaimKind, ClaimsError, ClaimSet, Expectation, Query, claim_kinds
from analysis.claims.fields import (
    check_count,
    check_keys,
    check_needs,
    check_number,
    check_type,
    one_of,
    some_of,
)

MOST_BYTES = 1_000_000
WORKSHEET = "worksheet"  # what a grid file calls the claims that come with the program


def load_claims(path: Path | None = None) -> ClaimSet:
    """The claims in a file; without one, those of the worksheet. Errors: ClaimsError."""
    if path is None:
        return parse_claims(shipped_claims(WORKSHEET), f"{WORKSHEET}.toml")
    return parse_claims(read_claims(path), str(path))


def shipped_claims(name: str) -> bytes:
    """A claims file that comes with the program: `worksheet` or `stability`."""
    return resources.files("analysis.claims").joinpath(f"{name}.toml").read_bytes()


def read_claims(path: Path) -> bytes:
    """The content of a claims file, no more of it than one may hold. Errors: ClaimsError."""
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ClaimsError(f"{path}: cannot be read ({error.strerror})") from error


def parse_claims(content: bytes, source: str) -> ClaimSet:
    """The bytes of a claims file -> its claims; `source` names it in errors. Errors: ClaimsError."""
    if len(content) > MOST_BYTES:
        raise ClaimsError(f"{source}: larger than {MOST_BYTES:,} bytes")
    try:
        text = content.decode()
        parsed = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ClaimsError(f"{source}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        raise ClaimsError(f"{source}: not valid TOML ({error})") from error
    try:
        check_keys(parsed, required=("title", "claim"), allowed=("title", "claim", "needs"))
        check_type(parsed["title"], str, "title")
        needs = _parse_needs(parsed.get("needs", {}))
        if not isinstance(parsed["claim"], list) or not parsed["claim"]:
            raise ValueError("there is no [[claim]]")
    except ValueError as error:
        raise ClaimsError(f"{source}: {error}") from error
    claims: dict[str, Claim] = {}
    kinds = claim_kinds()
    for number, entry in enumerate(parsed["claim"]):
        try:
            claim = _parse_claim(entry, needs, kinds)
            if claim.id in claims:
                raise ValueError("the id is used twice")
        except ValueError as error:
            name = entry.get("id") if isinstance(entry, dict) else None
            raise ClaimsError(f"{source}:{_line(text, number)}: claim {name!r}: {error}") from error
        claims[claim.id] = claim
    return ClaimSet(parsed["title"], source, tuple(claims.values()))


def _parse_claim(entry: Any, needs: Mapping[str, Mapping[str, Any]], kinds: Mapping[str, ClaimKind]) -> Claim:
    if not isinstance(entry, dict):
        raise ValueError("not a table")
    keys = ("id", "section", "statement", "query", "expect")
    check_keys(entry, required=keys, allowed=(*keys, "needs", "min_seeds", "source", "reading"))
    for key in (
        "id",
        "section",
        "statement",
        *(("source", "reading") if "source" in entry or "reading" in entry else ()),
    ):
        check_type(entry.get(key), str, key)
    source = one_of(("text only",))(entry["source"], "source") if "source" in entry else ""
    query, expect = _parse_query(entry["query"], kinds), _parse_expectation(entry["expect"])
    if expect.order != kinds[query.kind].ordered:
        ordered = " and ".join(kind.name for kind in kinds.values() if kind.ordered)
        raise ValueError(f"expect = {{ order = true }} belongs to queries of kind {ordered}, and only to them")
    needed: dict[str, Any] = {}
    if names := entry.get("needs", []):
        for name in some_of(tuple(needs))(names, "needs"):
            needed |= needs[name]
    min_seeds = check_count(entry.get("min_seeds", 1), "min_seeds")
    return Claim(
        entry["id"],
        entry["section"],
        entry["statement"],
        query,
        expect,
        needed,
        min_seeds,
        source,
        entry.get("reading", ""),
    )


def _parse_query(content: Any, kinds: Mapping[str, ClaimKind]) -> Query:
    if not isinstance(content, dict) or "kind" not in content:
        raise ValueError(f"query needs kind = one of {', '.join(kinds)}")
    kind = one_of(tuple(kinds))(content["kind"], "query.kind")
    checks, optional = kinds[kind].fields, kinds[kind].optional
    check_keys(content, required=("kind", *(c for c in checks if c not in optional)), allowed=("kind", *checks))
    if {"cell", "cells"} <= set(content):
        raise ValueError("query has both cell and cells")
    fields = {name: checks[name](value, name) for name, value in content.items() if name != "kind"}
    return Query(kind, fields)


def _parse_expectation(content: Any) -> Expectation:
    if not isinstance(content, dict):
        raise ValueError("expect is not a table")
    keys = set(content)
    if keys == {"value", "tolerance"}:
        value, tolerance = check_number(content["value"], "value"), check_number(content["tolerance"], "tolerance")
        if tolerance < 0:
            raise ValueError("tolerance is negative")
        return Expectation(value - tolerance, value + tolerance, value)
    if keys == {"range"}:
        bounds = content["range"]
        if not isinstance(bounds, list) or len(bounds) != 2:
            raise ValueError("range is not [low, high]")
        low, high = (check_number(bound, "range") for bound in bounds)
        if low >= high:
            raise ValueError("range is empty: low is not below high")
        return Expectation(low, high)
    if keys == {"at_least"}:
        return Expectation(low=check_number(content["at_least"], "at_least"))
    if keys == {"at_most"}:
        return Expectation(high=check_number(content["at_most"], "at_most"))
    if keys == {"direction"} and content["direction"] in ("positive", "negative"):
        return (
            Expectation(low=0.0, strict=True)
            if content["direction"] == "positive"
            else Expectation(high=0.0, strict=True)
        )
    if keys == {"order"} and content["order"] is True:
        return Expectation(order=True)
    raise ValueError(
        "expect is none of { value, tolerance }, { range = [low, high] }, { at_least }, { at_most }, "
        '{ direction = "positive" or "negative" }, { order = true }'
    )


def _parse_needs(content: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(content, dict):
        raise ValueError("needs is not a table of tables")
    return {name: check_needs(value, f"needs.{name}") for name, value in content.items()}


def _line(text: str, number: int) -> int:
    """The line of the claim with this number, from its header; 1 where claims are written some other way."""
    headers = [match.start() for match in re.finditer(r"(?m)^[ \t]*\[\[[ \t]*[\"']?claim[\"']?[ \t]*\]\]", text)]
    return text.count("\n", 0, headers[number]) + 1 if number < len(headers) else 1
