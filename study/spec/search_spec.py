"""The [search] table of a grid file: what is searched, how, for how long and what becomes of the winners.

    [search]
    sampler = "tpe"                    tpe, random, gp, cmaes or nsga2
    pruner = "asha"                    asha, median or none
    objective = "val_accuracy"         or two of the objectives, e.g. ["val_accuracy", "train_flops"]
    trials = 40                        budgets: any of trials, gpu_hours, wall_time_h; the first that is spent ends the search
    top_k = 3                          winners that are trained again on the full training set
    confirmation_seeds = 3             seeds of winners and published cells then: a number or a list; default: seeds of the file
    seed = 0                           decides the suggestions
    [search.space]
    batch_size = { choices = [32, 64] }
    learning_rate = { low = 0.01, high = 0.5, log = true }
    momentum = { low = 0.5, high = 0.95, step = 0.05 }

Every error is a ValueError of one line. Imports neither torch nor Ray nor Optuna.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from study.spec.search_space import Space, parse_space

Direction = Literal["maximize", "minimize"]
SAMPLERS = ("tpe", "random", "gp", "cmaes", "nsga2")
PRUNERS = ("asha", "median", "none")
# What a search may optimise, and which way is better. Nothing that was seen on the test set is among it.
OBJECTIVES: dict[str, Direction] = {
    "val_accuracy": "maximize",
    "val_loss": "minimize",
    "train_flops": "minimize",
    "train_time_s": "minimize",
}
INTERMEDIATE = ("val_accuracy", "val_loss")  # known after every epoch, so trials can be pruned by them
REDUCTION_FACTOR = 3  # ASHA lets one trial of so many pass a rung
MAX_SEARCH_TRIALS = 10_000
MAX_SEED = 200_000
FIRST_SEARCH_SEED = 1_000_000  # seeds of the searched trials start here; all seeds of cells lie below
_KEYS = (
    "sampler", "pruner", "objective", "trials", "gpu_hours", "wall_time_h", "top_k", "confirmation_seeds", "seed", "space",
)  # fmt: skip


@dataclass(frozen=True)
class SearchSpec:
    """One search, read and checked."""

    space: Space
    sampler: str = "tpe"
    pruner: str = "asha"
    objectives: tuple[str, ...] = ("val_accuracy",)
    trials: int | None = None
    gpu_hours: float | None = None
    wall_time_h: float | None = None
    top_k: int = 3
    confirmation_seeds: tuple[int, ...] | None = None  # None: those of the study
    seed: int = 0

    @property
    def directions(self) -> list[Direction]:
        """maximize or minimize, for each objective."""
        return [OBJECTIVES[name] for name in self.objectives]

    def to_dict(self) -> dict[str, Any]:
        """The resolved table, as study.json keeps it."""
        return {
            "sampler": self.sampler,
            "pruner": self.pruner,
            "objective": self.objectives[0] if len(self.objectives) == 1 else list(self.objectives),
            "trials": self.trials,
            "gpu_hours": self.gpu_hours,
            "wall_time_h": self.wall_time_h,
            "top_k": self.top_k,
            "confirmation_seeds": list(self.confirmation_seeds or ()),
            "seed": self.seed,
            "space": {name: domain.to_dict() for name, domain in self.space.items()},
        }

    def describe_budget(self) -> str:
        """The budgets in words."""
        parts = [
            f"{self.trials} trials" if self.trials is not None else "",
            f"{self.gpu_hours:g} GPU hours" if self.gpu_hours is not None else "",
            f"{self.wall_time_h:g} h" if self.wall_time_h is not None else "",
        ]
        return " or ".join(filter(None, parts))


def parse_search(content: Any) -> SearchSpec:
    """The [search] table of a grid file. Errors: ValueError. A budget may still be missing: the command line can give it."""
    if not isinstance(content, dict):
        raise ValueError("search is not a table: write [search]")
    if unknown := [key for key in content if key not in _KEYS]:
        near = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        raise ValueError(f"[search] unknown key {unknown[0]!r}; " + (f"did you mean {near[0]}?" if near else f"keys are {', '.join(_KEYS)}"))  # fmt: skip
    objectives = _objectives(content.get("objective", "val_accuracy"))
    two = len(objectives) > 1
    spec = SearchSpec(
        space=parse_space(content.get("space")),
        sampler=_one_of("sampler", content.get("sampler", "nsga2" if two else "tpe"), SAMPLERS),
        pruner=_one_of("pruner", content.get("pruner", "none" if two else "asha"), PRUNERS),
        objectives=objectives,
        trials=_whole("trials", content.get("trials"), 1, MAX_SEARCH_TRIALS),
        gpu_hours=_positive("gpu_hours", content.get("gpu_hours")),
        wall_time_h=_positive("wall_time_h", content.get("wall_time_h")),
        top_k=_whole("top_k", content.get("top_k", 3), 1, 100) or 3,
        confirmation_seeds=_seeds(content.get("confirmation_seeds")),
        seed=_whole("seed", content.get("seed", 0), 0, MAX_SEED) or 0,
    )
    _check_combination(spec)
    return spec


def check_trials(trials: int) -> int:
    """A number of trials as typed on the command line. Errors: ValueError."""
    return _whole("trials", trials, 1, MAX_SEARCH_TRIALS) or 0


def training_seed(spec: SearchSpec, number: int) -> int:
    """The seed that searched trial `number` trains with: never that of another trial, a cell or another search seed."""
    return FIRST_SEARCH_SEED + MAX_SEARCH_TRIALS * spec.seed + number


def list_rungs(epochs: int, warmup_epochs: int = 0) -> list[int]:
    """The epochs after which ASHA decides: from a ninth of all epochs on, each three times the one before, up to a third.

    A later rung would save little and let hardly any trial of a short search complete. None lies within the longest warm-up
    or before the first epoch after it: a trial that is still warming up is behind by design, not because it is worse.
    """
    rungs = [max(1, epochs // REDUCTION_FACTOR**2, warmup_epochs + 1 if warmup_epochs else 1)]
    while rungs[-1] * REDUCTION_FACTOR**2 <= epochs:
        rungs.append(rungs[-1] * REDUCTION_FACTOR)
    return [rung for rung in rungs if rung * REDUCTION_FACTOR <= epochs]


def expected_epochs(epochs: int, warmup_epochs: int = 0) -> float:
    """Epochs of one trial under ASHA on average, in a long search: a third of the trials passes each rung."""
    spent, share, before = 0.0, 1.0, 0
    for rung in [*list_rungs(epochs, warmup_epochs), epochs]:
        spent += share * (rung - before)
        share, before = share / REDUCTION_FACTOR, rung
    return spent


def _check_combination(spec: SearchSpec) -> None:
    two = len(spec.objectives) > 1
    if two and spec.pruner != "none":
        raise ValueError(
            f"[search] pruner {spec.pruner!r} needs one objective: with two, no epoch says which trial is behind"
        )
    if two and spec.sampler == "cmaes":
        raise ValueError("[search] sampler 'cmaes' has one objective; for two use nsga2, tpe, gp or random")
    if spec.objectives[0] not in INTERMEDIATE and spec.pruner != "none":
        raise ValueError(f"[search] pruner {spec.pruner!r} needs an objective known after every epoch: {', '.join(INTERMEDIATE)}")  # fmt: skip
    if spec.objectives[0] not in INTERMEDIATE:
        raise ValueError(f"[search] objective {spec.objectives[0]!r} alone is best for a network that learns nothing; put {' or '.join(INTERMEDIATE)} first")  # fmt: skip


def _objectives(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    if not names or len(names) > 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"[search] objective {value!r} is not one name or a list of two")
    for name in names:
        if name.startswith(("test", "final_test", "best_test", "epoch1_test")):
            raise ValueError(
                f"[search] objective {name!r}: a search never looks at the test set, or its winners' test accuracy would be "
                "chosen, not measured; use val_accuracy"
            )
        _one_of("objective", name, tuple(OBJECTIVES))
    if len(set(names)) < len(names):
        raise ValueError(f"[search] objective {names[0]!r} is given twice")
    return tuple(names)


def _one_of(key: str, value: Any, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"[search] {key} {value!r} is not one of {', '.join(allowed)}")
    return value


def _whole(key: str, value: Any, low: int, high: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"[search] {key} {value!r} is not a whole number from {low} to {high:,}")
    return value


def _positive(key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e300:
        raise ValueError(f"[search] {key} {value!r} is not a number above 0")
    return float(value)


def _seeds(value: Any) -> tuple[int, ...] | None:
    """A number of seeds, or a list of them."""
    if value is None:
        return None
    seeds = (
        list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000 else value
    )
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise ValueError(f"[search] confirmation_seeds {value!r}: give a number of seeds, or a list of different ones")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < FIRST_SEARCH_SEED:
            raise ValueError(
                f"[search] confirmation_seeds: {seed!r} is not a whole number from 0 to {FIRST_SEARCH_SEED - 1:,}; seeds "
                "from there on are those of searched trials, and winners are confirmed on fresh ones"
            )
    return tuple(seeds)
