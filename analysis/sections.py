"""The sections of the report, in reading order, by the name that a figure or table declares."""

from __future__ import annotations

from typing import Any

from trainable.discovery import Declaration, discover

SECTIONS = {
    "verdict": "Verdict", "search": "Search", "curves": "Curves", "branches": "Branches", "comparison": "Comparison",
    "variance": "Where the variance comes from", "dynamics": "Dynamics", "flops": "FLOPs", "schedule": "Schedule",
    "claims": "Claims", "confounds": "Confounds", "data": "Data and model", "trials": "Trials", "more": "Further tables",
}  # fmt: skip


def section_title(name: str) -> str:
    """The heading of a section; one that only a declaration names is called as it is named there."""
    return SECTIONS.get(name, name.replace("_", " ").capitalize())


def section_place(name: str) -> int:
    """Where a section stands; those that only declarations name stand last."""
    return list(SECTIONS).index(name) if name in SECTIONS else len(SECTIONS)


def discover_in_order(package: str, kind: type[Declaration], *, search: bool) -> dict[str, Declaration]:
    """What a package declares of this kind, in reading order; with `search` also what its package `search` does.

    Optuna, which that needs, takes a second to import.
    """
    found: dict[str, Any] = discover(package, kind) | (discover(f"{package}.search", kind) if search else {})
    return dict(sorted(found.items(), key=lambda item: (section_place(item[1].section), item[1].position)))
