"""What a study asks: a grid and a few overrides -> a StudySpec -> complete trial configurations.

Imports neither torch nor Ray.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records.factors import align_fields, find_factors, short_name
from analysis.records.study_json import EQUIVALENCE_MARGIN, PRIMARY_METRIC, Cell
from study.spec.asked_search import choose_search, hold_out, start_search
from study.spec.branch_spec import BranchSpec, branch_configs, with_images
from study.spec.errors import SpecError
from study.spec.grid_file import MAX_TRIALS, Grid, cell_fields, check_seeds, check_study_name
from trainable.config import BRANCH_FIELDS, FIELDS, FieldValue, Precision, TrialConfig, cell_id
from trainable.data.kinds import check_dataset, sizes_of
from trainable.models import complete_config

if TYPE_CHECKING:
    from analysis.search.spec import SearchSpec

FEWEST_SEEDS = 3  # before the first look of --until-decided
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
    equivalence_margin: float = EQUIVALENCE_MARGIN
    primary_metric: str = PRIMARY_METRIC
    claims: str = ""
    stopping: dict[str, int] | None = None  # first and most: seeds after which one first and last looks at the verdicts
    search: SearchSpec | None = None
    branch: BranchSpec | None = None
    search_base: dict[str, FieldValue] = field(default_factory=dict)  # of all searched trials, before the search's own
    gpu_precision: Precision | None = None  # of trials on GPUs where nothing else names one

    def trial_configs(self) -> list[TrialConfig]:
        """One complete configuration per cell and seed, all cells of the first seed first: comparisons come early."""
        return [TrialConfig.from_dict({**cell.config, "seed": seed}) for seed in self.seeds for cell in self.cells]

    def without_effect(self) -> list[str]:
        """Fields that are set and change nothing in some of the cells, in words."""
        lines = [line for cell in self.cells for line in TrialConfig.from_dict(cell.config).without_effect.values()]
        return [
            f"{line}{'' if n == len(self.cells) else f' ({n} of {len(self.cells)} cells)'}"
            for line, n in Counter(lines).items()
        ]

    def branches_of(self, parents: Iterable[TrialConfig]) -> list[TrialConfig]:
        """The branches of these trials; none where the study does not branch."""
        return [] if self.branch is None else branch_configs(self.branch, parents)


def build_spec(
    grid: Grid,
    *,
    name: str | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, FieldValue] | None = None,
    defaults: Mapping[str, FieldValue] | None = None,
    trials: int | None = None,
    searching: bool | None = None,
    most_seeds: int | None = None,
) -> StudySpec:
    """Grid and command line -> StudySpec. `overrides` replace what the grid says, `defaults` fill what it leaves open.

    Without `name` the study is called after the grid and its overrides, so that a reduced run never lands in the
    folder of the full one. With `most_seeds` seeds are added until the primary question is settled, up to so many. `trials` is the search's budget; `searching` True demands a search, False leaves out that of the
    grid. Errors: SpecError.
    """
    overrides, defaults = dict(overrides or {}), dict(defaults or {})
    search = choose_search(grid, trials, searching)
    configs = _build_configs(grid, overrides, defaults)
    used = _choose_seeds(grid, search, seeds, len(configs))
    if most_seeds is not None:
        used = _first_seeds(used, most_seeds, len(configs) + (search.top_k if search else 0))
    search_base = {} if search is None else {**_without_seed(configs[0]), **hold_out(configs[0])}
    if search is not None:
        configs = [replace(config, validation_size=0) for config in configs]  # confirmed on the full training set
    factors = find_factors(config.to_dict() for config in configs)
    cells = _build_cells(grid, configs, factors)
    spec = StudySpec(
        name=check_study_name(name if name is not None else _default_name(grid.name, overrides)),
        title=grid.title,
        cells=cells,
        seeds=used,
        factors=factors,
        reductions=_reductions(grid, overrides),
        equivalence_margin=grid.equivalence_margin,
        primary_metric=grid.primary_metric,
        claims=grid.claims,
        gpu_precision=grid.gpu_precision,
        stopping=None if most_seeds is None else {"first": len(used), "most": most_seeds},
        branch=_check_branch(grid, configs),
    )
    if search is None:
        return spec
    search = start_search(search, spec.cells, spec.seeds, search_base, overrides)
    return replace(spec, search=search, search_base=search_base)


def _build_configs(
    grid: Grid, overrides: Mapping[str, FieldValue], defaults: Mapping[str, FieldValue]
) -> list[TrialConfig]:
    """The configuration of each cell of the grid, with seed 0. Errors: SpecError."""
    if "seed" in overrides:
        raise SpecError("--set seed=...: use --seeds")
    if branching := [name for name in overrides if name in BRANCH_FIELDS]:
        raise SpecError(
            f"--set {branching[0]}=...: branches are what [branch] of the grid file says; edit a copy of it"
        )
    for cell in grid.cells:
        if studied := [name for name in cell_fields(cell) if name in overrides]:
            raise SpecError(f"--set {studied[0]}=...: the grid studies {studied[0]} itself; edit a copy of its file")
    try:
        configs = [
            complete_config(
                TrialConfig.from_dict({**defaults, **grid.base, **cell_fields(cell), **overrides, "seed": 0}),
                (grid.folder, Path()),
            )
            for cell in grid.cells
        ]
        for dataset in {config.dataset for config in configs}:
            check_dataset(dataset, (grid.folder, Path()))
        return configs
    except ValueError as error:
        raise SpecError(str(error)) from error


def _check_branch(grid: Grid, configs: Sequence[TrialConfig]) -> BranchSpec | None:
    """What the grid branches, with the number of images that fits all cells. Errors: SpecError."""
    if grid.branch is None:
        return None
    try:
        known = sizes_of(configs[0].dataset)
        return with_images(grid.branch, configs, known[0] if known else None)
    except ValueError as error:
        raise SpecError(str(error)) from error


def _choose_seeds(
    grid: Grid, search: SearchSpec | None, asked: Sequence[int] | None, num_cells: int
) -> tuple[int, ...]:
    """The seeds of the command line, else those of the search, else those of the grid. Errors: SpecError."""
    try:
        seeds = check_seeds(asked if asked is not None else (search and search.confirmation_seeds) or grid.seeds)
    except ValueError as error:
        raise SpecError(str(error)) from error
    if num_cells * len(seeds) > MAX_TRIALS:
        raise SpecError(f"{num_cells:,} cells x {len(seeds):,} seeds are more than {MAX_TRIALS:,} trials")
    return seeds


def _first_seeds(seeds: tuple[int, ...], most: int, num_cells: int) -> tuple[int, ...]:
    """The seeds before the first look, three or more. Errors: SpecError."""
    if num_cells < 2:
        raise SpecError("--until-decided: the study has one cell, there is nothing to decide; give it a second one")
    further = (seed for seed in range(len(seeds) + FEWEST_SEEDS) if seed not in seeds)
    seeds = (*seeds, *itertools.islice(further, max(FEWEST_SEEDS - len(seeds), 0)))
    if most < len(seeds):
        raise SpecError(f"--max-seeds {most}: fewer than the {len(seeds)} seeds before the first look at the verdicts")
    if num_cells * most > MAX_TRIALS:
        raise SpecError(f"{num_cells:,} cells x {most:,} seeds are more than {MAX_TRIALS:,} trials")
    return seeds


def _build_cells(grid: Grid, configs: Sequence[TrialConfig], factors: Sequence[str]) -> tuple[Cell, ...]:
    """The cells of the grid, called as it says, else after what differs between them. Errors: SpecError."""
    cells = tuple(
        Cell(
            cell_id(config),
            cell.get("label") or _label(config, factors or tuple(cell_fields(cell))),
            own,
            _published(grid, config),
        )
        for config, own, cell in zip(configs, align_fields(map(_without_seed, configs)), grid.cells, strict=True)
    )
    if len({cell.cell_id for cell in cells}) < len(cells):
        raise SpecError("two cells of the grid are the same configuration; remove one")
    trained: dict[str, Cell] = {}
    for cell, config in zip(cells, configs, strict=True):
        unused = config.without_effect
        defaults: dict[str, Any] = {name: FIELDS[name].default for name in unused}
        other = trained.setdefault(cell_id(replace(config, **defaults)), cell)
        if other is not cell:
            raise SpecError(
                f"cells {other.label!r} and {cell.label!r} train the same: {', '.join(unused.values())}; remove one"
            )
    return cells


def with_cells(spec: StudySpec, cells: Sequence[Cell]) -> StudySpec:
    """The study with these cells added, those that it has already left out."""
    known = {cell.cell_id: cell for cell in (*cells, *spec.cells)}  # the label of a cell that was there stays
    ordered = tuple(known[i] for i in dict.fromkeys(cell.cell_id for cell in (*spec.cells, *cells)))
    return replace(spec, cells=ordered, factors=find_factors(cell.config for cell in ordered))


def build_cell(config: TrialConfig, label: str) -> Cell:
    """The cell of this configuration."""
    return Cell(cell_id(config), label, _without_seed(config))


def _without_seed(config: TrialConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name != "seed"}


def _label(config: TrialConfig, factors: Sequence[str]) -> str:
    values = config.to_dict()
    told = (f"{short_name(name)} {_text(values[name])}" for name in factors if name in values)
    return ", ".join(told) or "all trials"


def _published(grid: Grid, config: TrialConfig) -> dict[str, float]:
    return {
        name: float(value)
        for entry in grid.published
        if all(config.to_dict().get(f) == v for f, v in entry["cell"].items())
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
