"""The pages for users, and the part of them that is made from code: the tables of columns.

`python -m tests.support.readme` writes that part.
"""

from __future__ import annotations

import re
from pathlib import Path

from trainable.records.columns import COLUMNS, CONFIG_COLUMNS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
COLUMNS_PAGE = ROOT / "docs" / "columns.md"
_MARK = re.compile(r"<!-- columns -->.*?<!-- end of columns -->", re.DOTALL)


def pages() -> dict[str, str]:
    """Every page that a user reads, by its path in the repository: the README and docs/*.md."""
    return {str(path.relative_to(ROOT)): path.read_text() for path in [README, *sorted((ROOT / "docs").glob("*.md"))]}


def render_columns() -> str:
    """The tables of every kind of record, in Markdown."""
    parts = ["<!-- columns -->"]
    for kind, columns in COLUMNS.items():
        rows = [column for column in columns if column not in CONFIG_COLUMNS]
        parts += ["", f"## {kind}.parquet", "", "| column | unit | meaning |", "| --- | --- | --- |"]
        for column in rows:
            parts.append(f"| `{column.name}` | {column.unit} | {_escaped(column.meaning)} |")
            if column.name == "seed" and kind == "trials":
                parts.append("| `config.*` | | every field of TrialConfig; `study run --help` lists them |")
    return "\n".join([*parts, "", "<!-- end of columns -->"])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def replace_columns(text: str) -> str:
    """The page of columns with the tables as they are now."""
    return _MARK.sub(lambda _: render_columns(), text, count=1)


if __name__ == "__main__":
    COLUMNS_PAGE.write_text(replace_columns(COLUMNS_PAGE.read_text()))
