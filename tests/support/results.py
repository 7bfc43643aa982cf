"""The tables of docs/results.md that come from the example studies: `python -m tests.support.results` writes them."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.comparison.words import answer
from analysis.records.frames import load_study
from analysis.results.formats import to_markdown
from analysis.tables import build_tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
EXAMPLES = ROOT / "examples"
TABLES = {
    "factorial-width8": ("best", "factors", "hypotheses", "test_variance"),
    "branch-width4": ("critical_batch_size", "branches"),
    "stability-width4": ("stability", "claims"),
}
ANSWERED = ("factorial-width8",)  # whose answer the page tells


def render(example: str) -> str:
    """What stands between the marks of an example: the report's answer where the page tells it, and tables without their notes; of the effects
    those on the primary metric and those that differ from zero."""
    study = load_study(EXAMPLES / example)
    sentences = answer(study).sentences if example in ANSWERED else ()
    parts = [f"<!-- {example} -->", *(f"> {sentence}\n>" for sentence in sentences), ""]
    for name, table in build_tables(study, TABLES[example]).items():
        frame = table.frame
        if name == "factors":
            frame = frame[frame["primary"].astype(bool) | (frame["verdict"] == "different")]
        text = to_markdown(type(table)(name, table.title, frame, table.columns))
        parts.append(text.replace("## ", "### ", 1))
    return "\n".join([*parts, f"<!-- end of {example} -->"])


def replace_examples(text: str) -> str:
    """The page with the tables as the records say them."""
    for example in TABLES:
        mark = re.compile(f"<!-- {example} -->.*?<!-- end of {example} -->", re.DOTALL)
        text = mark.sub(lambda _, example=example: render(example), text, count=1)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(replace_examples(PAGE.read_text()))
