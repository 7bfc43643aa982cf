"""What a study asks: a grid and a few overrides -> a StudySpec -> complete trial configurations.

Imports neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.study_folder import Cell
from study.grid_file import MAX_TRIALS, Grid, SpecError, cell_fields, check_seeds, check_study_name
from trainable.config import FIELDS, FieldValue, TrialConfig, cell_id

_SIZE_FIELDS = ("epochs", "width", "train_limit", "test_limit")


@dataclass(frozen=True)
class StudySpec:
    """One question: cells, seeds, and what is known about them. `cells[i]` describes `configs[i]` (seed 0 there)."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    factors: tuple[str, ...]
    reductions: tuple[str, ...] = ()
    equivalence_margin: float = 0.005

    def trial_configs(self) -> list[TrialConfig]:
        """One complete configuration per cell and seed, all cells of the first seed first: comparisons come early."""
        return [TrialConfig.from_dict({**cell.config, "seed": seed}) for seed in self.seeds for cell in self.cells]


def build_spec(
    grid: Grid,
    *,
    name: str | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, FieldValue] | None = None,
    defaults: Mapping[str, FieldValue] | None = None,
) -> StudySpec:
    """Grid and command line -> StudySpec. `overrides` replace what the grid says, `defaults` fill what it leaves open.

    Without `name` the study is called after the grid and its overrides, so that a reduced run never lands in the
    folder of the full one. Errors: SpecError.
    """
    overrides, defaults = dict(overrides or {}), dict(defaults or {})
    if "seed" in overrides:
        raise SpecError("--set seed=...: use --seeds")
    for cell in grid.cells:
        if studied := [name for name in cell_fields(cell) if name in overrides]:
            raise SpecError(f"--set {studied[0]}=...: the grid studies {studied[0]} itself; edit a copy of its file")
    try:
        configs = [
            TrialConfig.from_dict({**defaults, **grid.base, **cell_fields(cell), **overrides, "seed": 0})
            for cell in grid.cells
        ]
        used = check_seeds(seeds if seeds is not None else grid.seeds)
    except ValueError as error:
        raise SpecError(str(error)) from error
    if len(configs) * len(used) > MAX_TRIALS:
        raise SpecError(f"{len(configs):,} cells x {len(used):,} seeds are more than {MAX_TRIALS:,} trials")
    factors = tuple(f for f in FIELDS if f != "seed" and len({getattr(config, f) for config in configs}) > 1)
    cells = tuple(
        Cell(
            cell_id(config),
            cell.get("label") or _label(config, factors),
            _without_seed(config),
            _published(grid, config),
        )
        for config, cell in zip(configs, grid.cells, strict=True)
    )
    if len({cell.cell_id for cell in cells}) < len(cells):
        raise SpecError("two cells of the grid are the same configuration; remove one")
    return StudySpec(
        name=check_study_name(name if name is not None else _default_name(grid.name, overrides)),
        title=grid.title,
        cells=cells,
        seeds=used,
        factors=factors,
        reductions=_reductions(grid, overrides),
        equivalence_margin=grid.analysis.get("equivalence_margin", 0.005),
    )


def _without_seed(config: TrialConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name != "seed"}


def _label(config: TrialConfig, factors: Sequence[str]) -> str:
    short = {"batch_size": "batch", "learning_rate": "lr"}
    return ", ".join(f"{short.get(name, name)} {_text(getattr(config, name))}" for name in factors) or "all trials"


def _published(grid: Grid, config: TrialConfig) -> dict[str, float]:
    return {
        name: float(value)
        for entry in grid.published
        if all(getattr(config, f) == v for f, v in entry["cell"].items())
        for name, value in entry.items()
        if name != "cell"
    }


def _default_name(name: str, overrides: Mapping[str, FieldValue]) -> str:
    return "-".join([name, *(f"{field}={_text(value)}" for field, value in overrides.items())])


def _reductions(grid: Grid, overrides: Mapping[str, FieldValue]) -> tuple[str, ...]:
    """How the overrides change the size of the study that the grid file describes, in words."""
    words = {"epochs": "epochs", "width": "width", "train_limit": "training images", "test_limit": "test images"}
    changed = []
    for name in _SIZE_FIELDS:
        asked = grid.base.get(name, FIELDS[name].default)
        if name in overrides and overrides[name] != asked:
            changed.append(f"{words[name]}: {_text(overrides[name])} instead of {_text(asked)}")
    return tuple(changed)


def _text(value: FieldValue) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
