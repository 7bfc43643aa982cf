"""The example studies in the repository open, and docs/results.md says what is in their records."""

from __future__ import annotations

import re

import pytest

from analysis.comparison.words import answer
from analysis.records.frames import load_study
from tests.support.results import EXAMPLES, PAGE, TABLES, render

MOST_BYTES = 15_000_000


@pytest.mark.parametrize("example", TABLES)
def test_the_page_says_what_the_records_say(example: str) -> None:
    assert render(example) in PAGE.read_text(), "run make pages"


@pytest.mark.parametrize("example", TABLES)
def test_an_example_is_whole_and_small(example: str) -> None:
    study = load_study(EXAMPLES / example)
    assert len(study.completed_ids) == len(study.info.cells) * len(study.info.seeds)
    assert study.info.data["dataset"] == "cifar10"
    assert answer(study).sentences
    files = [path for path in (EXAMPLES / example).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_numbers_outside_the_tables_are_published_ones() -> None:
    text = re.sub(r"<!-- (\S+) -->.*?<!-- end of \1 -->", "", PAGE.read_text(), flags=re.DOTALL)
    cells = [cell for example in TABLES for cell in load_study(EXAMPLES / example).info.cells]
    accuracies = [cell.published["final_test_accuracy"] for cell in cells if "final_test_accuracy" in cell.published]
    published = {f"{100 * value:.2f}" for value in accuracies} | {f"{100 * (max(accuracies) - min(accuracies)):.2f}"}
    quoted = set(re.findall(r"(?<![\d.])\d+\.\d\d(?= %| points)", text))
    assert quoted
    assert quoted <= published
