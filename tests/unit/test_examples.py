"""The example studies in the repository open, and docs/results.md says what is in their records."""

from __future__ import annotations

import pytest

from analysis.comparison.words import answer
from analysis.records.frames import load_study
from tests.support.results import EXAMPLES, PAGE, TABLES, render

MOST_BYTES = 15_000_000


@pytest.mark.parametrize("example", TABLES)
def test_the_page_says_what_the_records_say(example: str) -> None:
    assert render(example) in PAGE.read_text(), "run python -m tests.support.results"


@pytest.mark.parametrize("example", TABLES)
def test_an_example_is_whole_and_small(example: str) -> None:
    study = load_study(EXAMPLES / example)
    assert len(study.completed_ids) == len(study.info.cells) * len(study.info.seeds)
    assert study.info.data["dataset"] == "cifar10"
    assert answer(study).sentences
    files = [path for path in (EXAMPLES / example).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
