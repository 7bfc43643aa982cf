"""The error of everything that is asked for and cannot be done as asked. Knows nothing of the rest of study."""

from __future__ import annotations


class SpecError(ValueError):
    """A grid file, option or name that cannot be used; the message says in one line what is wrong and what to do."""
