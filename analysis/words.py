"""Words that several parts put together alike. Knows nothing of studies."""

from __future__ import annotations

from collections.abc import Sequence


def join_words(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; one word at least."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
