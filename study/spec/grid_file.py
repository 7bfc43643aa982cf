"""Grid files: TOML -> a checked Grid.

    name, title, seeds = [0, 1]        seeds as a list
    gpu_precision = "published"        of trials on GPUs, where neither [base] nor the command line names one
    [base]                             TrialConfig fields of all cells; those of the model are model_fields.NAME
    [grid]                             field = [values]: every combination is a cell
    [[cells]]                          explicit cells, with an optional label
    [[published]]                      cell = { field = value }, and published values of cell metrics
    [analysis]                         primary_metric, equivalence_margin, and the published claims to check:
                                       claims = "worksheet", "stability" or a claims file, found from the grid file
    [search]                           see search_spec.py; [[cells]] are then what the search starts from
    [branch]                           see branch_spec.py: short branches of every trial at other batch sizes

The shipped ones lie in study/grids. Every error is a SpecError: one line that says what is wrong and what to do.
Imports neither torch nor Ray.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from analysis.records.study_json import EQUIVALENCE_MARGIN, PRIMARY_METRIC
from study.spec.branch_spec import BranchSpec, parse_branch
from study.spec.errors import SpecError
from study.spec.search_spec import parse_search
from trainable.config import BRANCH_FIELDS, FIELDS, Precision, check_field_name, flatten

if TYPE_CHECKING:
    from analysis.search.spec import SearchSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,127}")
_TOP_LEVEL = (
    "name",
    "title",
    "seeds",
    "gpu_precision",
    "base",
    "grid",
    "cells",
    "published",
    "analysis",
    "search",
    "branch",
)
MAX_TRIALS = 100_000


@dataclass(frozen=True)
class Grid:
    """A grid file, read and checked but not yet combined with overrides."""

    name: str
    title: str
    seeds: tuple[int, ...]
    base: dict[str, Any]
    cells: tuple[dict[str, Any], ...]  # fields of each cell, with an optional 'label'
    published: tuple[dict[str, Any], ...] = ()
    equivalence_margin: float = EQUIVALENCE_MARGIN
    primary_metric: str = PRIMARY_METRIC
    claims: str = ""  # "worksheet", or the text of a claims file
    search: SearchSpec | None = None
    branch: BranchSpec | None = None
    gpu_precision: Precision | None = None
    folder: Path = Path()  # where its file lies, and modules of the user's beside it


def list_grids() -> list[str]:
    """Names of the shipped grids."""
    return sorted(
        path.name.removesuffix(".toml")
        for path in resources.files("study.grids").iterdir()
        if path.name.endswith(".toml")
    )


def load_grid(name_or_path: str) -> Grid:
    """A shipped grid by name, or a TOML file by path. Errors: SpecError."""
    if name_or_path in list_grids():
        return parse_grid(resources.files("study.grids").joinpath(f"{name_or_path}.toml").read_text(), name_or_path)
    if not name_or_path.endswith(".toml"):
        near = difflib.get_close_matches(name_or_path, list_grids(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"grids are {', '.join(list_grids())}, or a FILE.toml"
        raise SpecError(f"no grid named {name_or_path!r}: {hint}")
    try:
        path = Path(name_or_path)
        return parse_grid(path.read_text(encoding="utf-8"), name_or_path, path.parent)
    except OSError as error:
        raise SpecError(f"grid file {name_or_path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"grid file {name_or_path}: not UTF-8 text") from error


def parse_grid(text: str, source: str, folder: Path = Path()) -> Grid:
    """The text of a grid file -> Grid; `source` names it in errors, `folder` is where it lies. Errors: SpecError."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise SpecError(f"grid file {source}: {error}") from error
    try:
        return _parse_grid(content, folder)
    except ValueError as error:
        raise SpecError(f"grid file {source}: {error}") from error


def check_study_name(name: str) -> str:
    """`name` if it can be a folder under the results folder and nothing else. Errors: SpecError."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"study name {name!r}: use letters, digits and . _ = + - (at most 128, a letter or digit first)"
        )
    return name


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` -> (0, 1, 2); `0,4,7` -> (0, 4, 7); `5,` -> (5,). Errors: SpecError."""
    try:
        if "," in text:
            return check_seeds([int(part) for part in text.split(",") if part.strip()])
        count = int(text)
    except ValueError as error:
        raise SpecError(f"--seeds {text!r}: give a number of seeds, or a list like 0,1,5") from error
    if not 1 <= count <= MAX_TRIALS:
        raise SpecError(f"--seeds {text!r}: the number of seeds is from 1 to {MAX_TRIALS:,}")
    return tuple(range(count))


def _parse_grid(content: dict[str, Any], folder: Path) -> Grid:
    if unknown := [key for key in content if key not in _TOP_LEVEL]:
        raise ValueError(f"unknown key {unknown[0]!r}; keys are {', '.join(_TOP_LEVEL)}")
    for key, kind in (("name", str), ("title", str), ("seeds", list), ("base", dict), ("grid", dict), ("cells", list),
                      ("published", list), ("analysis", dict)):  # fmt: skip
        if key in content and not isinstance(content[key], kind):
            raise ValueError(f"{key} is not a {kind.__name__}")
    if "name" not in content:
        raise ValueError("name is missing")
    base = flatten(content.get("base", {}))
    for name in base:
        check_field_name(name)
    if "seed" in base:
        raise ValueError("seed does not belong in [base]; use seeds = [...]")
    cells = (*_product(content.get("grid", {})), *(_explicit_cell(cell) for cell in content.get("cells", [])))
    given = [(name, value) for part in (base, *cells) for name, value in part.items() if name in BRANCH_FIELDS]
    if branching := [name for name, value in given if value != FIELDS[name].default]:
        raise ValueError(f"{branching[0]}: branches of a study are what [branch] says; leave it out")
    if "branch" in content and "search" in content:
        raise ValueError("[branch] and [search] do not go together: branch the cells of a grid of their own")
    search = _search(content) if "search" in content else None
    if not cells and search:
        cells = ({"label": "defaults"},)  # the one configuration that the search starts from
    if not cells:
        raise ValueError("no cells: give [grid] with lists of values, or [[cells]]")
    return Grid(
        folder=folder,
        name=check_study_name(content["name"]),
        title=content.get("title", content["name"]),
        seeds=check_seeds(content.get("seeds", [0])),
        base=base,
        cells=cells,
        published=tuple(_published_entry(entry, cells) for entry in content.get("published", [])),
        **_analysis(content.get("analysis", {}), folder),
        search=search,
        branch=parse_branch(content["branch"]) if "branch" in content else None,
        gpu_precision=_gpu_precision(content.get("gpu_precision")),
    )


def _gpu_precision(asked: Any) -> Precision | None:
    if asked is not None and asked not in get_args(Precision):
        raise ValueError(f"gpu_precision={asked!r} is not one of {', '.join(get_args(Precision))}")
    return asked  # type: ignore[no-any-return]


def _search(content: dict[str, Any]) -> SearchSpec:
    search = parse_search(content["search"])
    if both := [name for name in flatten(content.get("grid", {})) if name in search.space]:
        raise ValueError(f"{both[0]} is in [grid] and in [search.space]; a field is either enumerated or searched")
    if "grid" in content:
        raise ValueError("[grid] and [search] do not go together: put what the search starts from into [[cells]]")
    if search.confirmation_seeds is not None and "seeds" in content:
        raise ValueError(
            "seeds and [search] confirmation_seeds are both given; a search uses one of them, remove the other"
        )
    return search


def _product(axes: dict[str, Any]) -> list[dict[str, Any]]:
    if not axes:
        return []
    flat = flatten(axes)
    for name, values in flat.items():
        check_field_name(name)
        if name == "seed":
            raise ValueError("seed does not belong in [grid]; use seeds = [...]")
        if not isinstance(values, list) or not values:
            raise ValueError(f"[grid] {name} is not a list of values")
    if math.prod(len(values) for values in flat.values()) > MAX_TRIALS:
        raise ValueError(f"[grid] has more than {MAX_TRIALS:,} cells")
    return [dict(zip(flat, values, strict=True)) for values in itertools.product(*flat.values())]


def _explicit_cell(table: Any) -> dict[str, Any]:
    if not isinstance(table, dict) or not cell_fields(table):
        raise ValueError("[[cells]] holds something else than fields of a cell")
    cell = flatten(table)
    for name in cell_fields(cell):
        check_field_name(name)
    if "seed" in cell:
        raise ValueError("seed does not belong in [[cells]]; use seeds = [...]")
    if not isinstance(cell.get("label", ""), str):
        raise ValueError(f"label {cell['label']!r} is not a text")
    return cell


def _published_entry(table: Any, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(table, dict) or not isinstance(table.get("cell"), dict) or not table["cell"]:
        raise ValueError("[[published]] needs cell = { field = value }")
    entry: dict[str, Any] = {**table, "cell": flatten(table["cell"])}
    for name in entry["cell"]:
        check_field_name(name)
    from analysis.metrics import list_metrics

    for name, value in entry.items():
        if name == "cell":
            continue
        if name not in list_metrics():
            raise ValueError(f"[[published]] {name!r} is not a cell metric; metrics are {', '.join(list_metrics())}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
            raise ValueError(f"[[published]] {name} is not a number")
    if not any(all(cell.get(f) == v for f, v in entry["cell"].items()) for cell in cells):
        raise ValueError(f"[[published]] no cell of the grid has {entry['cell']}")
    return entry


def _analysis(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a grid says about how it is judged; a claims file is named from `folder`. Errors: ValueError."""
    keys = ("equivalence_margin", "primary_metric", "claims")
    if unknown := [key for key in content if key not in keys]:
        raise ValueError(f"[analysis] unknown key {unknown[0]!r}; keys are {', '.join(keys)}")
    return {
        "equivalence_margin": _margin(content), "primary_metric": _primary_metric(content),
        "claims": _claims(content.get("claims", ""), folder),
    }  # fmt: skip


def _primary_metric(content: dict[str, Any]) -> str:
    name = content.get("primary_metric", PRIMARY_METRIC)
    if name != PRIMARY_METRIC:
        from analysis.metrics import list_metrics

        known = [metric for metric, found in list_metrics().items() if found.better]
        if name not in known:
            raise ValueError(f"[analysis] primary_metric {name!r} is not one of {', '.join(known)}")
    return str(name)


def _claims(named: Any, folder: Path) -> str:
    if not isinstance(named, str):
        raise ValueError('[analysis] claims is "worksheet", "stability" or the name of a claims file')
    if named in ("", "worksheet"):
        return named
    from analysis.claims.claim import ClaimsError
    from analysis.claims.claims_file import parse_claims, read_claims, shipped_claims

    if named == "stability":
        return shipped_claims(named).decode()
    try:
        content = read_claims(folder / named)
        parse_claims(content, str(folder / named))
    except ClaimsError as error:
        raise ValueError(f"[analysis] claims: {error}") from error
    return content.decode()


def _margin(content: dict[str, Any]) -> float:
    margin = content.get("equivalence_margin", EQUIVALENCE_MARGIN)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin < 1:
        raise ValueError("[analysis] equivalence_margin is a fraction between 0 and 1, e.g. 0.005 for 0.5 points")
    return float(margin)


def check_seeds(seeds: Sequence[Any]) -> tuple[int, ...]:
    """Seeds that can be used, as a tuple. Errors: ValueError."""
    if not seeds:
        raise ValueError("no seeds: give at least one")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise ValueError(f"seed {seed!r} is not a whole number from 0 to {2**31 - 1}")
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed is given twice")
    return tuple(seeds)


def cell_fields(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The TrialConfig fields of a cell of a grid, without its label."""
    return {name: value for name, value in cell.items() if name != "label"}
