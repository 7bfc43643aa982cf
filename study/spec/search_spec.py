"""The [search] table of a grid file: what it may ask for, besides what every such table must be (analysis.search.spec).

    [search]
    sampler = "tpe"                    a file of study/spec/samplers
    pruner = "asha"                    a file of study/spec/pruners
    objective = "val_accuracy"         a file of analysis/search/objectives, or two: ["val_accuracy", "train_flops"]
    trials = 40                        budgets: any of trials, gpu_hours, wall_time_h; the first that is spent ends the search
    top_k = 3                          winners that are trained again on the full training set
    confirmation_seeds = 3             seeds of winners and published cells then: a number or a list; default: seeds of the file
    seed = 0                           decides the suggestions
    [search.space]
    batch_size = { choices = [32, 64] }
    learning_rate = { low = 0.01, high = 0.5, log = true }
    momentum = { low = 0.5, high = 0.95, step = 0.05 }

Every error is a ValueError of one line. Imports neither torch nor Ray nor Optuna, and pydantic only to read a table.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from analysis.search.objectives import Objective, list_objectives
from study.spec.pruners import list_pruners
from study.spec.samplers import list_samplers
from trainable.config import flatten

if TYPE_CHECKING:
    from analysis.search.spec import SearchSpec

FIRST_SEARCH_SEED = 1_000_000  # seeds of the searched trials start here; all seeds of cells lie below
_KEYS = (
    "sampler", "pruner", "objective", "trials", "gpu_hours", "wall_time_h", "top_k", "confirmation_seeds", "seed", "space",
)  # fmt: skip


def parse_search(content: Any) -> SearchSpec:
    """The [search] table of a grid file. Errors: ValueError. A budget may still be missing: the command line can give it."""
    from analysis.search.spec import read_search

    if not isinstance(content, dict):
        raise ValueError("search is not a table: write [search]")
    if unknown := [key for key in content if key not in _KEYS]:
        near = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        raise ValueError(f"[search] unknown key {unknown[0]!r}; " + (f"did you mean {near[0]}?" if near else f"keys are {', '.join(_KEYS)}"))  # fmt: skip
    if not content.get("space"):
        raise ValueError("[search.space] is missing: give each searched field its choices, or low and high")
    two = isinstance(content.get("objective"), list) and len(content["objective"]) > 1
    defaults = {"sampler": "nsga2", "pruner": "none"} if two else {}
    try:
        spec = read_search({**defaults, **content, "space": flatten(content["space"])})
        check_methods(spec)
    except ValueError as error:
        raise ValueError(f"[search] {error}") from None
    return spec


def with_trials(spec: SearchSpec, trials: int) -> SearchSpec:
    """The search with another number of trials. Errors: ValueError."""
    from analysis.search.spec import read_search

    return read_search({**spec.to_dict(), "trials": trials})


def training_seed(spec: SearchSpec, number: int) -> int:
    """The seed that searched trial `number` trains with: never that of another trial, a cell or another search seed."""
    from analysis.search.spec import MAX_SEARCH_TRIALS

    return FIRST_SEARCH_SEED + MAX_SEARCH_TRIALS * spec.seed + number


def check_methods(spec: SearchSpec) -> None:
    """Refuse a sampler, pruner or objectives that there are not, or that do not go together. Errors: ValueError."""
    objectives = [_find_objective(name) for name in spec.objectives]
    sampler = list_samplers()[_one_of("sampler", spec.sampler, list_samplers())]
    pruner = list_pruners()[_one_of("pruner", spec.pruner, list_pruners())]
    if missing := [package for package in sampler.packages if find_spec(package) is None]:
        raise ValueError(f"sampler {sampler.name!r} needs the package {missing[0]}: install it")
    if len(set(spec.objectives)) < len(objectives):
        raise ValueError(f"objective {spec.objectives[0]!r} is given twice")
    if len(objectives) > sampler.max_objectives:
        others = [name for name, other in list_samplers().items() if other.max_objectives >= len(objectives)]
        raise ValueError(f"sampler {sampler.name!r} has one objective; for two use {', '.join(others)}")
    if len(objectives) > 1 and pruner.build:
        raise ValueError(f"pruner {pruner.name!r} needs one objective: with two, no epoch says which trial is behind")
    if objectives[0].of_epoch is None:
        by_epoch = [name for name, objective in list_objectives().items() if objective.of_epoch]
        if pruner.build:
            raise ValueError(
                f"pruner {pruner.name!r} needs an objective known after every epoch: {', '.join(by_epoch)}"
            )
        raise ValueError(
            f"objective {spec.objectives[0]!r} alone is best for a network that learns nothing; put {' or '.join(by_epoch)} first"
        )


def _find_objective(name: str) -> Objective:
    if name.startswith(("test", "final_test", "best_test", "epoch1_test")):
        raise ValueError(
            f"objective {name!r}: a search never looks at the test set, or its winners' test accuracy would be chosen, not "
            "measured; use val_accuracy"
        )
    return list_objectives()[_one_of("objective", name, list_objectives())]


def _one_of(key: str, value: str, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{key} {value!r} is not one of {', '.join(allowed)}")
    return value
