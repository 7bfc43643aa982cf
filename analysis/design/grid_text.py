"""The text of a grid file that extends a study by the cells that its confounds call for. Knows no study folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from analysis.design.confounds import Confounds
from analysis.records.study_json import Cell
from trainable.config import FIELDS


class Grid(Protocol):
    """What a grid file says, as a study and what asks for one know it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def cells(self) -> Sequence[Cell]: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def equivalence_margin(self) -> float: ...
    @property
    def primary_metric(self) -> str: ...
    @property
    def claims(self) -> str | None: ...


def write_grid(confounds: Confounds, grid: Grid) -> str:
    """The text of a grid file with the cells of the study and the proposed ones; same name: the study is extended.

    A claims file is not named in it: nobody knows here where it lies.
    """
    cells, claims = grid.cells, "worksheet" if grid.claims == "worksheet" else None
    configs = [_settable(config) for config in (*(cell.config for cell in cells), *confounds.extra_cells)]
    shared = [field for field in configs[0] if len({config[field] for config in configs}) == 1]
    told = [
        f
        for f in shared
        if f not in FIELDS or configs[0][f] != FIELDS[f].default or f in ("dataset", "epochs", "width")
    ]
    own = [{field: value for field, value in config.items() if field not in shared} for config in configs]
    known = list(zip(cells, own, strict=False))
    tables = [
        _table("", {"name": grid.name, "title": grid.title, "seeds": list(grid.seeds)}),
        _table("[base]\n", {field: configs[0][field] for field in told}),
        *(_table("[[cells]]\n", {"label": cell.label, **config}) for cell, config in known),
        *(_table("# added to tell factors apart\n[[cells]]\n", config) for config in own[len(cells) :]),
        *(_table("[[published]]\n", {"cell": config, **cell.published}) for cell, config in known if cell.published),
        _table(
            "[analysis]\n",
            {
                "equivalence_margin": grid.equivalence_margin,
                "primary_metric": grid.primary_metric,
                "claims": claims,
            },
        ),
    ]
    return "\n".join(tables)


def _settable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the hash of the user's code, which follows from the code."""
    return {field: value for field, value in config.items() if field != "model_source"}


def _table(header: str, values: Mapping[str, Any]) -> str:
    """A line per value; TOML has no null, so what is None is left out."""
    return header + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items() if value is not None)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items() if item is not None)} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    escaped = (f"\\u{ord(c):04x}" if ord(c) < 32 or c in '"\\\x7f' else c for c in str(value))
    return f'"{"".join(escaped)}"'
