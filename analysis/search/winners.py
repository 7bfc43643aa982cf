"""The best trials of a search and what became of them on the test set, beside the cells that the study was given.

A winner was chosen because its validation value was high, so that value is too good: part of it is luck. What is left of it
after training anew, over fresh seeds and on all training images, is the confirmation. The given cells, mostly published ones, went
through the same search without being chosen; what changes for them too is not luck but the other images. Knows no Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.records.factors import field_title, same_value
from analysis.records.study_json import Cell
from analysis.records.summary import summarize_trials
from analysis.search.history import Search, find_front

METRIC = "final_test_accuracy"  # the only metric that winners are confirmed by


@dataclass(frozen=True)
class Contender:
    """A configuration that was searched and is to be confirmed; `cell` is None until it is, `rank` 0 for given ones."""

    rank: int
    parameters: Mapping[str, Any]
    number: int | None  # of its search trial
    searched: float  # the first objective at search time, NaN where it was not searched to the end
    given: bool  # a cell of the grid file, tried first
    cell: Cell | None

    @property
    def name(self) -> str:
        """How tables call it."""
        return " and ".join([*([f"winner {self.rank}"] if self.rank else []), *([self._origin] if self.given else [])])

    @property
    def _origin(self) -> str:
        return "published" if self.cell is not None and self.cell.published else "given"


def list_contenders(search: Search) -> list[Contender]:
    """The top k configurations in the order of the first objective, then the given ones that are not among them.

    With two objectives the winners are taken from the Pareto front. With one, trials that were pruned follow those that
    completed, as the driver confirms them: the ones that got furthest first.
    """
    ordered = search.ranked
    if len(search.objective_columns) > 1:
        ordered = ordered[find_front(search)[ordered.index]]
    enqueued = [dict(values) for values in search.description.enqueued]
    found: list[Contender] = []
    for row in [*ordered.to_dict("records"), *_list_pruned(search).to_dict("records")]:
        parameters = {name: row[column] for name, column in search.parameter_columns.items()}
        if len(found) == search.description.top_k:
            break
        if not any(_same(parameters, other.parameters) for other in found):
            given = any(_same(values, parameters) for values in enqueued)
            found.append(_contender(search, len(found) + 1, parameters, row, given))
    for values in enqueued:
        if any(_same(values, other.parameters) for other in found):
            continue
        rows = [row for row in search.completed.to_dict("records") if _is_of(search, row, values)]
        found.append(_contender(search, 0, values, rows[0] if rows else None, True))
    return found


def _list_pruned(search: Search) -> pd.DataFrame:
    """The rows of pruned trials, those with most epochs first and then by their last value; none with two objectives."""
    pruned = search.trials[search.trials["status"] == "pruned"].merge(
        search.curves.groupby("number").last(), on="number"
    )
    if len(search.objective_columns) > 1:
        pruned = pruned[:0]
    return pruned.sort_values(["epoch", "value", "number"], ascending=[False, search.is_better() < 0, True])


def compare_contenders(search: Search) -> pd.DataFrame:
    """One row per winner and given cell it is held against, then one per given cell.

    The difference is winner less the other in final test accuracy, paired by seed; the intervals of these rows hold at once.
    """
    study, contenders = search.study, list_contenders(search)
    trials = summarize_trials(study)
    by_cell = trials.pivot(index="cell_id", columns="seed", values=METRIC)
    given = [c for c in contenders if c.given]
    pairs: list[tuple[Contender, Contender | None]] = []
    for contender in contenders:
        others = [other for other in given if other is not contender] if contender.rank else []
        pairs += [(contender, other) for other in others] or [(contender, None)]
    rows = [_describe(search, trials, *pair) for pair in pairs]
    differences = np.array([_difference(by_cell, *pair) for pair in pairs]).reshape(len(pairs), -1)
    against = np.array([other is not None for _, other in pairs], dtype=bool)
    tests = statistics.compare_paired(differences, int(against.sum()))
    verdicts = statistics.decide(tests, study.info.equivalence_margin)
    tested = against & (tests.num_seeds > 0)
    frame = pd.DataFrame(rows, columns=list(_DESCRIPTION))
    frame["difference"], frame["low"], frame["high"] = tests.mean, tests.low, tests.high
    frame["p"] = tests.p
    frame["common_seeds"] = np.where(against, tests.num_seeds, np.nan)
    frame["verdict"] = np.where(tested, verdicts, np.where(against, "not confirmed yet", ""))
    return frame


_DESCRIPTION = (
    "what", "against", "number", "label", "parameters", "searched", "seeds", "test_mean", "test_sd", "shrinkage",
    "shrinkage_low", "shrinkage_high",
)  # fmt: skip


def _describe(search: Search, trials: pd.DataFrame, contender: Contender, other: Contender | None) -> dict[str, Any]:
    comparable = search.objectives[0].kind == "accuracy"
    cell = contender.cell
    values = trials.loc[trials["cell_id"] == (cell.cell_id if cell else ""), METRIC].dropna().to_numpy()
    mean, low, high = statistics.mean_interval(values)
    searched = contender.searched if comparable else math.nan
    return {
        "what": contender.name, "against": _label(other) if other else "", "number": contender.number,
        "label": _label(contender), "parameters": describe_parameters(contender.parameters),
        "searched": contender.searched, "seeds": len(values), "test_mean": mean,
        "test_sd": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "shrinkage": searched - mean, "shrinkage_low": searched - high, "shrinkage_high": searched - low,
    }  # fmt: skip


def _difference(by_cell: pd.DataFrame, contender: Contender, other: Contender | None) -> np.ndarray:
    """Winner less the other by seed; NaN where one of them has no value."""
    if other is None or contender.cell is None or other.cell is None:
        return np.full(by_cell.shape[1], np.nan)
    first, second = (by_cell.reindex([c.cell.cell_id]).to_numpy(dtype=float)[0] for c in (contender, other) if c.cell)
    return np.asarray(first - second)


def _contender(
    search: Search, rank: int, parameters: Mapping[str, Any], row: Mapping[Any, Any] | None, given: bool
) -> Contender:
    number, searched = (int(row["number"]), float(row["objective_1"])) if row else (None, math.nan)
    return Contender(rank, parameters, number, searched, given, find_cell(search, parameters))


def find_cell(search: Search, parameters: Mapping[str, Any]) -> Cell | None:
    """The first cell of the study with these values."""
    return next((cell for cell in search.study.info.cells if _same(parameters, cell.config)), None)


def _is_of(search: Search, row: Mapping[Any, Any], values: Mapping[str, Any]) -> bool:
    columns = search.parameter_columns
    return _same(values, {name: row[column] for name, column in columns.items()})


def _same(parameters: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether `config` has these values, as far as it has the fields at all."""
    common = [name for name in parameters if name in config]
    return bool(common) and all(same_value(parameters[name], config[name]) for name in common)


def _label(contender: Contender) -> str:
    return contender.cell.label if contender.cell else describe_parameters(contender.parameters)


def describe_parameters(parameters: Mapping[str, Any]) -> str:
    """`batch size 64, learning rate 0.15`."""
    return ", ".join(f"{field_title(name)} {_short(value)}" for name, value in parameters.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) and not float(value).is_integer() else str(value)


def names_of(contenders: Sequence[Contender]) -> dict[int, str]:
    """What the search trials of the contenders are called, by number."""
    return {c.number: c.name for c in contenders if c.number is not None}
