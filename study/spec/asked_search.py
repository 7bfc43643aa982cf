"""The search that a grid and a command line ask for, and what it starts from: the cells of the study.

Imports neither torch nor Ray nor Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from study.spec.errors import SpecError
from study.spec.search_space import check_space
from study.spec.search_spec import FIRST_SEARCH_SEED, with_trials
from trainable.data.kinds import sizes_of
from trainable.fields import value_text

if TYPE_CHECKING:
    from analysis.records.study_json import Cell
    from analysis.search.spec import SearchSpec
    from study.spec.grid_file import Grid
    from trainable.config import FieldValue, TrialConfig


def choose_search(grid: Grid, trials: int | None, searching: bool | None) -> SearchSpec | None:
    """The search of the grid with this budget, where the command line does not leave it out. Errors: SpecError."""
    if grid.search is None and (searching or trials is not None):
        raise SpecError(
            "--search, --trials: the grid has no ranges to search; give it a [search.space] (README, Searching)"
        )
    if grid.search is None or searching is False:
        return None
    try:
        search = grid.search if trials is None else with_trials(grid.search, trials)
    except ValueError as error:
        raise SpecError(f"--trials {trials}: {error}") from error
    if search.trials is None and search.gpu_hours is None and search.wall_time_h is None:
        raise SpecError("the search has no end: give --trials N, or trials, gpu_hours or wall_time_h in [search]")
    return search


def hold_out(config: TrialConfig) -> dict[str, FieldValue]:
    """What searched trials have otherwise than this configuration: blind to the test set, validated on a tenth of the training images.

    Or on as many as the grid's validation_size says; always the same number of each of ten classes. Errors: SpecError.
    """
    known = sizes_of(config.dataset)
    if known is None and not (config.validation_size or config.train_limit):
        raise SpecError(
            f"dataset={config.dataset}: say with validation_size how many training images a search holds out"
        )
    images = config.train_limit or (known or (0, 0))[0]
    held_out = config.validation_size or max(10, images // 100 * 10)
    return {"test_limit": 0, "validation_size": held_out}


def start_search(
    search: SearchSpec, cells: Sequence[Cell], seeds: tuple[int, ...], base: Mapping[str, FieldValue],
    overrides: Mapping[str, FieldValue],
) -> SearchSpec:  # fmt: skip
    """The search of a study, which starts from its cells and confirms with its seeds; checked. Errors: SpecError."""
    if studied := [name for name in search.space if name in overrides]:
        raise SpecError(f"--set {studied[0]}=...: the grid searches {studied[0]}; edit a copy of its file")
    _check_start(search, cells, base)
    if cells[0].config["test_limit"] == 0:
        raise SpecError(
            "test_limit=0: the winners of a search are reported on the test set; leave it out (searched trials never see it)"
        )
    if high := [seed for seed in seeds if seed >= FIRST_SEARCH_SEED]:
        raise SpecError(
            f"seed {high[0]}: seeds from {FIRST_SEARCH_SEED:,} on are those of searched trials; use lower ones"
        )
    try:
        check_space(search.space, base)
    except ValueError as error:
        raise SpecError(str(error)) from error
    enqueued = tuple({name: cell.config[name] for name in search.space} for cell in cells)
    return replace(search, confirmation_seeds=seeds, enqueued=enqueued)


def _check_start(search: SearchSpec, cells: Sequence[Cell], base: Mapping[str, FieldValue]) -> None:
    """Refuse cells that are not in the space of the search, which starts from them. Errors: SpecError."""
    for cell in cells:
        for name, value in cell.config.items():
            if name in ("validation_size", "test_limit"):
                continue
            domain = search.space.get(name)
            if domain is None and value != base[name]:
                raise SpecError(
                    f"cell {cell.label!r} has another {name} than the first one, but [search.space] has no {name}: add it there"
                )
            if domain is not None and not domain.holds(value):
                raise SpecError(
                    f"cell {cell.label!r}, which the search starts from, has {name} {value_text(value)}, outside of [search.space]: "
                    f"{domain}; widen that, or change {name} in [[cells]] or [base]"
                )
