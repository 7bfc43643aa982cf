"""What a claim is, and what declares a kind of claim (ClaimKind). Knows no file and no study.

A module of analysis/claims/kinds declares a kind as `KIND = ClaimKind(...)`, and nothing else needs to know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainable.discovery import discover

if TYPE_CHECKING:
    from analysis.claims.measures import Measurement, Measurements
    from analysis.results.result_table import ColumnKind


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


@dataclass(frozen=True)
class Claim:
    """One published statement and how it is checked."""

    id: str
    section: str
    statement: str
    query: Query
    expect: Expectation
    needs: Mapping[str, Any]
    min_seeds: int = 1
    source: str = ""  # `text only`: nothing that the published program puts out says so
    reading: str = ""  # how the statement is read, and the other reading


@dataclass(frozen=True, kw_only=True)
class ClaimKind:
    """A kind of claim: what its query asks for and how that is measured.

    name: the `kind` of its queries.
    fields: of a query, each with the check of its value (fields.py); `optional` ones may be left out.
    measure: what a query comes to in a study; `measurements` find cells and records.
    unit: how the number that a query comes to is written.
    ordered: it claims an order, so that `expect = { order = true }` belongs to it.
    directions: what `expect = { direction = ... }` is called where it is shown, positive and negative.
    """

    name: str
    fields: Mapping[str, Callable[[Any, str], Any]]
    measure: Callable[[Measurements, Claim], Measurement]
    unit: Callable[[Query], ColumnKind]
    optional: tuple[str, ...] = ()
    ordered: bool = False
    directions: tuple[str, str] = ("above 0", "below 0")


def claim_kinds() -> dict[str, ClaimKind]:
    """Every kind that is declared, by name."""
    return discover("analysis.claims.kinds", ClaimKind)


@dataclass(frozen=True)
class ClaimSet:
    """The claims of one file."""

    title: str
    source: str
    claims: tuple[Claim, ...]
