"""The text of a grid file that extends a study by the cells that its confounds call for. Knows no study folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from analysis.design.confounds import Confounds
from analysis.records.study_folder import Cell
from trainable.config import FIELDS


def write_grid(
    confounds: Confounds, cells: Sequence[Cell], *, name: str, title: str, seeds: Sequence[int], margin: float
) -> str:
    """The text of a grid file with the cells of the study and the proposed ones; same name: the study is extended."""
    configs = [*(cell.config for cell in cells), *confounds.extra_cells]
    shared = [field for field in configs[0] if len({config[field] for config in configs}) == 1]
    base = [f for f in shared if configs[0][f] != FIELDS[f].default or f in ("dataset", "epochs", "width")]
    lines = [
        f"name = {_toml(name)}", f"title = {_toml(title)}", f"seeds = {_toml(list(seeds))}", "", "[base]",
        *(f"{field} = {_toml(configs[0][field])}" for field in base if configs[0][field] is not None),
    ]  # fmt: skip
    for number, config in enumerate(configs):
        lines += ["", "[[cells]]"] if number < len(cells) else ["", "# added to tell factors apart", "[[cells]]"]
        if number < len(cells):
            lines.append(f"label = {_toml(cells[number].label)}")
        lines += [f"{f} = {_toml(v)}" for f, v in config.items() if f not in shared and v is not None]
    for cell in cells:
        if cell.published:
            selector = ", ".join(
                f"{f} = {_toml(v)}" for f, v in cell.config.items() if f not in shared and v is not None
            )
            values = [f"{metric} = {_toml(value)}" for metric, value in cell.published.items()]
            lines += ["", "[[published]]", f"cell = {{ {selector} }}", *values]
    return "\n".join([*lines, "", "[analysis]", f"equivalence_margin = {_toml(margin)}", ""])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    escaped = (f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\\x7f' else c for c in str(value))
    return f'"{"".join(escaped)}"'
