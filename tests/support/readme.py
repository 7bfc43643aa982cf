"""The parts of the README that are made from other files: the tables of columns, and cluster.yaml.

`python -m tests.support.readme` writes them.
"""

from __future__ import annotations

import re
from pathlib import Path

from trainable.records import COLUMNS, CONFIG_COLUMNS

README = Path(__file__).parents[2] / "README.md"
CLUSTER_FILE = README.with_name("cluster.yaml")
_CLUSTER_MARK = re.compile(r"<!-- cluster.yaml -->.*?(?=\n###? )", re.DOTALL)
_MARK = re.compile(r"<!-- columns -->.*?(?=\n###? )", re.DOTALL)


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


def render_cluster_file() -> str:
    """cluster.yaml with its comments, folded away."""
    summary = "<details><summary><code>cluster.yaml</code>, line by line</summary>"
    return f"<!-- cluster.yaml -->\n{summary}\n\n```yaml\n{CLUSTER_FILE.read_text()}```\n\n</details>\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def replace_parts(text: str) -> str:
    """The README with these parts as they are now."""
    text = _CLUSTER_MARK.sub(lambda _: render_cluster_file(), text, count=1)
    return _MARK.sub(lambda _: render_columns(), text, count=1)


if __name__ == "__main__":
    README.write_text(replace_parts(README.read_text()))
