"""How many inputs a test with made-up inputs tries: a twentieth in `make test`, all of them in `make test-full`.

The inputs are others in every run, so many short runs see what one long run sees.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FULL = bool(os.environ.get("FULL_TESTS"))


def try_inputs(full: int) -> settings:
    """Hypothesis settings for `full` inputs where FULL_TESTS is set, else for a twentieth, 25 at least; slow ones are no failure."""
    return settings(
        max_examples=full if FULL else max(25, full // 20), deadline=None, suppress_health_check=list(HealthCheck)
    )
