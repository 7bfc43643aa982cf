"""The rows of docs/faults.md, written by the tests that inject the faults: `FAULT_TABLE=docs/faults.md python -m pytest -m faults ...`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_HEAD = ("fault", "what happened", "epochs shown twice", "difference in records, tables and weights")


class FaultTable:
    """Rows gathered by the tests of one file."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []

    def add(self, fault: str, happened: str, repeated: int | str, differences: Sequence[str] | None) -> None:
        """One fault; `differences` from the undisturbed study, None where the study went on with further faults."""
        shown = "none (see the last line of this study)" if differences is None else "; ".join(differences) or "none"
        self.rows.append((fault, happened, str(repeated), shown))


@contextmanager
def written_table(mark: str) -> Iterator[FaultTable]:
    """A table whose rows replace those with the same fault after the comment `mark`, or are added there; others stay."""
    table = FaultTable()
    yield table
    if not (path := os.environ.get("FAULT_TABLE")):
        return
    before, comment, after = Path(path).read_text().partition(f"<!-- {mark} -->\n")
    assert comment, f"no comment {mark!r} in {path}"
    old, blank, rest = after.lstrip("\n").partition("\n\n")
    found = {line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines()[2:]}
    found |= {row[0]: "| " + " | ".join(row) + " |" for row in table.rows}
    lines = ["| " + " | ".join(line) + " |" for line in (_HEAD, ("---",) * len(_HEAD))]
    Path(path).write_text(before + comment + "\n" + "\n".join([*lines, *found.values()]) + blank + rest)
