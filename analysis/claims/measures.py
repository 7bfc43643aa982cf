"""What a claim's query comes to in a study: one number per completed trial of the cell that it names.

One function per kind of query (fields.QUERY_KINDS). An extreme over the layers counts diverged trials, too. Says what it
measured and where; whether that reproduces the claim is for verdicts.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims.claims_file import Claim, Query
from analysis.claims.published import load_study_claims
from analysis.metrics import list_metrics
from analysis.records.frames import FINISHED, Study
from analysis.records.study_folder import Cell
from analysis.records.summary import summarize_trials
from analysis.results.result_table import ColumnKind
from analysis.statistics import mean_interval

_LAYER_KEYS = ("trial_id", "epoch", "layer", "group", "kind")


@dataclass(frozen=True)
class Measurement:
    """What a query found.

    `values` has one number per seed, on a log10 scale where `is_log`; a quantity of the model has one and `is_exact`. Of an
    extreme the worst of all `values` is held against a bound. `pairs` has for each pair of groups in a claimed order the
    ends of the interval of their difference. `obstacle` says why the study cannot test the claim, where that is so.
    """

    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    cells: tuple[Cell, ...] = ()
    obstacle: str = ""
    is_log: bool = False
    is_exact: bool = False
    is_extreme: bool = False
    order: tuple[str, ...] = ()
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))


class _Unmeasurable(Exception):
    """The study cannot be asked; the message says why."""


class Measurements:
    """Measures the queries of many claims in one study, reading each record once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._trials = summarize_trials(study)
        self._layers: dict[tuple[str, ...], pd.DataFrame] = {}

    def measure(self, claim: Claim) -> Measurement:
        """What the claim's query comes to."""
        try:
            return _MEASURES[claim.query.kind](self, claim)
        except _Unmeasurable as problem:
            return Measurement(obstacle=str(problem))

    def _metric(self, claim: Claim) -> Measurement:
        query = claim.query
        (cell,) = self._find(claim.needs, query["cell"])
        values = self._trials.loc[self._trials["cell_id"] == cell.cell_id, query["metric"]].dropna()
        return Measurement(values.to_numpy(), (cell,))

    def _difference(self, claim: Claim) -> Measurement:
        query = claim.query
        cells = self._find(claim.needs, query["cell"], query["other"])
        by_seed = self._trials.pivot(index="seed", columns="cell_id", values=query["metric"])
        values = by_seed.reindex(columns=[cell.cell_id for cell in cells]).to_numpy(dtype=np.float64)
        differences = values[:, 0] - values[:, 1]
        return Measurement(differences[np.isfinite(differences)], cells)

    def _epoch(self, claim: Claim) -> Measurement:
        query = claim.query
        (cell,) = self._find(claim.needs, query["cell"])
        epochs = self._study.epochs
        chosen = epochs["trial_id"].isin(self._ids([cell.cell_id])) & (epochs["epoch"] == query["epoch"])
        return Measurement(epochs.loc[chosen, query["column"]].dropna().to_numpy(), (cell,))

    def _steps(self, claim: Claim) -> Measurement:
        query, statistic = claim.query, claim.query["statistic"] or "mean"
        (cell,) = self._find(claim.needs, query["cell"])
        steps, (first, last) = self._study.steps, query["epochs"]
        chosen = steps["trial_id"].isin(self._ids([cell.cell_id])) & steps["epoch"].between(first, last)
        values = steps[chosen].groupby("trial_id")[query["column"]].agg(statistic).dropna()
        return Measurement(values.to_numpy(), (cell,), is_extreme=statistic != "mean")

    def _layer_values(self, claim: Claim) -> Measurement:
        query = claim.query
        cells = self._some(query, claim.needs)
        if query["statistic"] not in ("min", "max"):
            return _logarithmic(_by_trial(self._rows(cells, query, query["epochs"]), query).to_numpy(), cells)
        values = _by_trial(self._rows(cells, query, query["epochs"], (FINISHED, "diverged")), query)
        unmeasured = [cell.label for cell in cells if not set(self._ids([cell.cell_id])) & set(values.index)]
        obstacle = f"no completed trial with such measurements of {', '.join(unmeasured)}" if unmeasured else ""
        return Measurement(values.to_numpy(), cells, is_extreme=True, obstacle=obstacle if len(values) else "")

    def _layer_change(self, claim: Claim) -> Measurement:
        query = claim.query
        (cell,) = self._find(claim.needs, query["cell"])
        early, late = (_by_trial(self._rows((cell,), query, query[phase]), query) for phase in ("from", "to"))
        ratios = (late / early).dropna()
        return _logarithmic(ratios.to_numpy(), (cell,))

    def _layer_order(self, claim: Claim) -> Measurement:
        """The share of pairs of groups that stand in the claimed order, by the mean over seeds of the group's value."""
        query = claim.query
        (cell,) = self._find(claim.needs, query["cell"])
        found: dict[str, pd.Series[float]] = {}
        for group in query["groups"]:
            rows = self._rows((cell,), Query(query.kind, {**query.fields, "groups": (group,)}), query["epochs"])
            found[group] = _by_trial(rows, query)
        by_seed = pd.DataFrame(found).dropna()
        if by_seed.empty:
            return Measurement(cells=(cell,))
        means, pairs = by_seed.mean(), list(itertools.combinations(query["groups"], 2))
        share = sum(means[a] > means[b] for a, b in pairs) / max(len(pairs), 1)
        intervals = [mean_interval((by_seed[a] - by_seed[b]).to_numpy())[1:] for a, b in pairs]
        order = tuple(sorted(found, key=lambda group: -means[group]))
        return Measurement(np.full(len(by_seed), share), (cell,), order=order, pairs=np.array(intervals).reshape(-1, 2))

    def _model(self, claim: Claim) -> Measurement:
        query, model = claim.query, self._study.model
        layers = model[model["width"] == query["width"]]
        if layers.empty:
            raise _Unmeasurable(f"missing cells: the study has no width {query['width']}")
        value = model_quantity(layers, query["quantity"], query["layer"])
        if value is None:
            raise _Unmeasurable(f"missing cells: the study has no layer {query['layer']!r}")
        return Measurement(np.array([value]), is_exact=True)

    def _some(self, query: Query, needs: Mapping[str, Any]) -> tuple[Cell, ...]:
        if selectors := query["cells"] or (query["cell"] and [query["cell"]]):
            return self._find(needs, *selectors)
        if not self._study.info.cells:
            raise _Unmeasurable("missing cells: the study has none")
        fitting = tuple(c for c in self._study.info.cells if not unmet_config(c, needs, {}))
        return fitting or self._study.info.cells

    def _find(self, needs: Mapping[str, Any], *selectors: Mapping[str, Any]) -> tuple[Cell, ...]:
        """For each selector the cell with these fields; of several, the one that differs least from what the claim needs."""
        found = [(_words(selector), self._closest(selector, needs)) for selector in selectors]
        if missing := [words for words, cells in found if not cells]:
            raise _Unmeasurable(f"missing cells: the study has no {' and no '.join(missing)}")
        for words, cells in found:
            if len(cells) > 1:
                labels = ", ".join(cell.label for cell in cells)
                raise _Unmeasurable(f"several cells fit {words} equally well: {labels}")
        return tuple(cells[0] for _, cells in found)

    def _closest(self, selector: Mapping[str, Any], needs: Mapping[str, Any]) -> list[Cell]:
        matching = [c for c in self._study.info.cells if all(_equal(c.config.get(f), v) for f, v in selector.items())]
        distances = [len(unmet_config(cell, needs, selector)) for cell in matching]
        return [c for c, distance in zip(matching, distances, strict=True) if distance == min(distances)]

    def _ids(self, cell_ids: Sequence[str], statuses: Sequence[str] = (FINISHED,)) -> list[str]:
        trials = self._study.trials
        return list(trials.loc[trials["status"].isin(statuses) & trials["cell_id"].isin(cell_ids), "trial_id"])

    def _rows(
        self, cells: Sequence[Cell], query: Query, epochs: tuple[int, int] | None, statuses: Sequence[str] = (FINISHED,)
    ) -> pd.DataFrame:
        """The rows of layers that a query is about, its column as `value`."""
        rows = self._layers_of(tuple(cell.cell_id for cell in cells), query["column"], statuses)
        if epochs is None and not query["groups"] and not query["kinds"]:
            return rows[["trial_id", "layer", query["column"]]].rename(columns={query["column"]: "value"})
        chosen = pd.Series(True, index=rows.index)
        if epochs is not None:
            chosen &= rows["epoch"].between(*epochs)
        for name, column in (("groups", "group"), ("kinds", "kind")):
            if query[name]:
                chosen &= rows[column].isin(query[name])
        columns = ["trial_id", "layer", query["column"]]
        return rows.loc[chosen, columns].rename(columns={query["column"]: "value"})

    def _layers_of(self, cell_ids: tuple[str, ...], column: str, statuses: Sequence[str] = (FINISHED,)) -> pd.DataFrame:
        """The completed layer records of one cell, read once with all columns that claims ask of; of others, this column."""
        ids = self._ids(cell_ids, statuses)
        if len(cell_ids) > 1 or len(statuses) > 1:
            recorded = self._study.read_layers(["trial_id"])["trial_id"].astype("category").cat.categories
            everything = set(recorded) <= set(ids)  # not so with trials of a search, or of cells that are gone
            return self._study.read_layers([*_LAYER_KEYS, column], None if everything else ids)
        if cell_ids not in self._layers:
            asked = {
                claim.query["column"]
                for claim in load_study_claims(self._study).claims
                if claim.query.kind.startswith("layers")
            }
            self._layers[cell_ids] = self._study.read_layers([*_LAYER_KEYS, *sorted(asked)], ids)
        return self._layers[cell_ids]


def result_kind(query: Query) -> ColumnKind:
    """How the number that a query comes to is written."""
    if query.kind in ("metric", "difference"):
        metric = list_metrics()[query["metric"]]
        return "points" if metric.in_percent and query.kind == "difference" else metric.kind
    if query.kind == "model":
        if query["quantity"] in ("memory_mb", "flops_per_parameter"):
            return "number"
        return "percent" if query["quantity"].endswith("_share") else "count"
    if query.kind in ("layers_change", "layers_order"):
        return "number"
    by_ending: dict[str, ColumnKind] = {"accuracy": "accuracy", "loss": "loss", "rate": "learning_rate"}
    return by_ending.get(query["column"].rsplit("_", 1)[-1], "scientific")


def unmet_config(cell: Cell, needs: Mapping[str, Any], selector: Mapping[str, Any]) -> list[str]:
    """The configuration fields that a claim needs and the cell has otherwise, in words; `selector` goes before needs."""
    return [
        f"{name} is {cell.config[name]} instead of {wanted}"
        for name, wanted in needs.items()
        if name in cell.config
        and name not in selector
        and not any(_equal(cell.config[name], value) for value in (wanted, *_AS_GOOD.get((name, wanted), ())))
    ]


_AS_GOOD = {("precision", "published"): ("fp32",)}  # what a claim that needs the one holds for too


def model_quantity(layers: pd.DataFrame, quantity: str, layer: str | None = None) -> float | None:
    """A number of one model, or of one of its layers; `layers` are its rows of model.parquet. None: no such layer."""
    rows = layers if layer is None else layers[layers["layer"] == layer]
    if rows.empty:
        return None
    if quantity == "memory_mb":
        return float(rows["num_parameters"].sum() * 4 / 2**20)
    if quantity == "flops_per_parameter":
        return float(rows["flops_worksheet"].sum() / rows["num_parameters"].sum())
    if quantity == "flops_worksheet_share":
        return float(rows["flops_worksheet"].sum() / layers["flops_worksheet"].sum())
    if quantity == "num_tensors":
        return float(rows["kind"].map({"conv": 1, "bn": 2, "linear": 2}).fillna(0).sum())
    return float(rows[quantity].sum())


def _by_trial(rows: pd.DataFrame, query: Query) -> pd.Series[float]:
    """The statistic of the query for each trial; log_spread is the standard deviation over tensors of log10 of the mean."""
    found: pd.Series[float]
    if query["statistic"] == "log_spread":
        means = rows.groupby(["trial_id", "layer"], observed=True)["value"].mean()
        found = np.log10(means[means > 0]).groupby("trial_id", observed=True).std().dropna()
    else:
        found = rows.groupby("trial_id", observed=True)["value"].agg(query["statistic"]).dropna()
    return found


def _logarithmic(values: np.ndarray, cells: tuple[Cell, ...]) -> Measurement:
    """Magnitudes are compared by their ratios; a value of 0 has none and is left out."""
    values = np.asarray(values, dtype=np.float64)
    return Measurement(np.log10(values[values > 0]), cells, is_log=True)


def _words(selector: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in selector.items())


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


_MEASURES: Mapping[str, Callable[[Measurements, Claim], Measurement]] = {
    "metric": Measurements._metric,
    "difference": Measurements._difference,
    "epoch": Measurements._epoch,
    "steps": Measurements._steps,
    "layers": Measurements._layer_values,
    "layers_change": Measurements._layer_change,
    "layers_order": Measurements._layer_order,
    "model": Measurements._model,
}
