"""The sections of the report, in reading order, by the name that a figure or table declares."""

from __future__ import annotations

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
