"""The time as every file of a study writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """The time now in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
