"""The part of the README that is made from the code: the tables of columns. `python -m tests.readme` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from trainable.records import COLUMNS, CONFIG_COLUMNS

README = Path(__file__).parents[1] / "README.md"
_MARK = re.compile(r"<!-- columns -->.*?(?=\n## )", re.DOTALL)


def render_columns() -> str:
    """The tables of every kind of record, in Markdown, folded away."""
    parts = ["<!-- columns -->"]
    for kind, columns in COLUMNS.items():
        rows = [column for column in columns if column not in CONFIG_COLUMNS]
        parts += [
            "",
            f"<details><summary><code>{kind}.parquet</code></summary>",
            "",
            "| column | unit | meaning |",
            "| --- | --- | --- |",
        ]
        for column in rows:
            parts.append(f"| `{column.name}` | {column.unit} | {_escaped(column.meaning)} |")
            if column.name == "seed" and kind == "trials":
                parts.append("| `config.*` | | every field of TrialConfig; `python -m study.run --help` lists them |")
        parts += ["", "</details>"]
    return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def replace_columns(text: str) -> str:
    """The README with its tables of columns as the code has them now."""
    return _MARK.sub(lambda _: render_columns(), text, count=1)


if __name__ == "__main__":
    README.write_text(replace_columns(README.read_text()))
