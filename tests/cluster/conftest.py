"""What the tests of clusters share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fault_table import FaultTable, written_table


@pytest.fixture
def table() -> Iterator[FaultTable]:
    """The rows of docs/faults.md about clusters."""
    with written_table("cluster fault table") as rows:
        yield rows
