"""What study.json says about a search: its objectives, its space, how many winners are confirmed. Checked, as it may be foreign.

Knows no trials and no Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis.records.study_folder import StudyFolder, StudyFolderError
from trainable.config import check_field_name

Scale = Literal["log", "linear", "choices"]


@dataclass(frozen=True)
class SearchDescription:
    """The [search] table of a study: `space` says how each searched field is spread, in the order of the file."""

    sampler: str
    pruner: str
    objectives: tuple[str, ...]
    space: Mapping[str, Scale]
    top_k: int
    enqueued: tuple[Mapping[str, Any], ...]  # the cells of the grid file in the space, tried first
    asked: str  # the budget, in words


def parse_search(content: Mapping[str, Any], folder: StudyFolder) -> SearchDescription:
    """The search of study.json. Errors: StudyFolderError naming what is wrong."""
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise StudyFolderError(f"{folder.study_json}: field 'search': {reason.splitlines()[0][:200]}") from error


def _parse(content: Mapping[str, Any]) -> SearchDescription:
    objective = content["objective"]
    objectives = [objective] if isinstance(objective, str) else objective
    if not isinstance(objectives, list) or not 1 <= len(objectives) <= 2:
        raise ValueError("objective is not a name or two")
    space = content["space"]
    if not isinstance(space, dict) or not space:
        raise ValueError("space is not a table of ranges")
    enqueued = content.get("enqueued", [])
    if not isinstance(enqueued, list) or not all(isinstance(values, dict) for values in enqueued):
        raise ValueError("enqueued is not a list of configurations")
    top_k = content.get("top_k", 0)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 0 <= top_k <= 10_000:
        raise ValueError(f"top_k = {str(top_k)[:20]} is not a number of winners")
    budgets = {"trials": "trials", "gpu_hours": "GPU hours", "wall_time_h": "hours"}
    asked = [f"{content[name]} {unit}" for name, unit in budgets.items() if content.get(name) is not None]
    return SearchDescription(
        sampler=str(content.get("sampler", "")), pruner=str(content.get("pruner", "")),
        objectives=tuple(_name(name) for name in objectives),
        space={str(name): _scale(str(name), spread) for name, spread in space.items()}, top_k=top_k,
        enqueued=tuple(enqueued), asked=" and ".join(asked),
    )  # fmt: skip


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("an objective is not a name")
    return value


def _scale(name: str, spread: Any) -> Scale:
    check_field_name(name)
    if not isinstance(spread, dict):
        raise ValueError(f"the range of {name} is not a table")
    if "choices" in spread:
        return "choices"
    return "log" if spread.get("log") is True else "linear"
