"""The operator's drill, once; with DRILL_PAGE=docs/drill.md its transcript is written there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.drill import run_drill

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(3600)]


def test_the_drill(tmp_path: Path) -> None:
    transcript = run_drill(tmp_path)
    if path := os.environ.get("DRILL_PAGE"):
        before, fence, _ = Path(path).read_text().partition("<!-- transcript -->\n")
        assert fence
        Path(path).write_text(before + fence + "\n```console\n" + "\n".join(transcript) + "\n```\n")
