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
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from analysis.claims.claim import Claim, ClaimsError, ClaimSet
from analysis.claims.fields import Needs, Table, Text
from analysis.claims.measures import claim_kinds
from analysis.toml_values import read_table

MOST_BYTES = 1_000_000
WORKSHEET = "worksheet"  # what a grid file calls the claims that come with the program


class _File(Table):
    """A claims file; each claim is read by itself, so that an error has its line."""

    title: Text
    claim: Annotated[list[Any], Field(min_length=1)]
    needs: dict[str, Needs] = Field(default_factory=dict)


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
        file = read_table(_File, parsed)
    except ValueError as error:
        raise ClaimsError(f"{source}: {error}") from error
    claims: dict[str, Claim] = {}
    context = {"needs": file.needs, "kinds": claim_kinds()}
    for number, entry in enumerate(file.claim):
        try:
            claim = read_table(Claim, entry, context)
            if claim.id in claims:
                raise ValueError("the id is used twice")
        except ValueError as error:
            name = entry.get("id") if isinstance(entry, dict) else None
            raise ClaimsError(f"{source}:{_line(text, number)}: claim {name!r}: {error}") from error
        claims[claim.id] = claim
    return ClaimSet(file.title, source, tuple(claims.values()))


def _line(text: str, number: int) -> int:
    """The line of the claim with this number, from its header; 1 where claims are written some other way."""
    headers = [match.start() for match in re.finditer(r"(?m)^[ \t]*\[\[[ \t]*[\"']?claim[\"']?[ \t]*\]\]", text)]
    return text.count("\n", 0, headers[number]) + 1 if number < len(headers) else 1
