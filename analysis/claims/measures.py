"""What a claim's query comes to in a study: one number per completed trial of the cell that it names.

One function per kind of query (fields.QUERY_KINDS). Says what it measured and where; whether that reproduces the
claim is for verdicts.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims.claims_file import Claim, Query
from analysis.frames import Study
from analysis.metrics import METRICS
from analysis.result_table import ColumnKind
from analysis.study_folder import Cell
from analysis.summary import summarize_trials

_LAYER_KEYS = ("trial_id", "epoch", "layer", "group", "kind")


@dataclass(frozen=True)
class Measurement:
    """What a query found.

    `values` has one number per seed, on a log10 scale where `is_log`; a quantity of the model has one and `is_exact`. For
    an extreme over everything `worst` is the value that a bound is held against. `missing` lists cells the study lacks.
    """

    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    cells: tuple[Cell, ...] = ()
    missing: tuple[str, ...] = ()
    is_log: bool = False
    is_exact: bool = False
    is_extreme: bool = False
    order: tuple[str, ...] = ()


class Measurements:
    """Measures the queries of many claims in one study, reading each record once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._trials = summarize_trials(study)
        self._layers: dict[tuple[str, ...], pd.DataFrame] = {}

    def measure(self, claim: Claim) -> Measurement:
        """What the claim's query comes to."""
        return _MEASURES[claim.query.kind](self, claim)

    def _metric(self, claim: Claim) -> Measurement:
        query = claim.query
        cell = self._find(query["cell"], claim.needs)
        if cell is None:
            return _without(query["cell"])
        values = self._trials.loc[self._trials["cell_id"] == cell.cell_id, query["metric"]].dropna()
        return Measurement(values.to_numpy(), (cell,))

    def _difference(self, claim: Claim) -> Measurement:
        query = claim.query
        pair = [self._find(query[name], claim.needs) for name in ("cell", "other")]
        if missing := [query[name] for name, cell in zip(("cell", "other"), pair, strict=True) if cell is None]:
            return _without(*missing)
        cells = tuple(cell for cell in pair if cell is not None)
        by_seed = self._trials.pivot(index="seed", columns="cell_id", values=query["metric"])
        values = by_seed.reindex(columns=[cell.cell_id for cell in cells]).to_numpy(dtype=np.float64)
        differences = values[:, 0] - values[:, 1]
        return Measurement(differences[np.isfinite(differences)], cells)

    def _epoch(self, claim: Claim) -> Measurement:
        query = claim.query
        cell = self._find(query["cell"], claim.needs)
        if cell is None:
            return _without(query["cell"])
        epochs = self._study.epochs
        chosen = epochs["trial_id"].isin(self._ids([cell.cell_id])) & (epochs["epoch"] == query["epoch"])
        return Measurement(epochs.loc[chosen, query["column"]].dropna().to_numpy(), (cell,))

    def _steps(self, claim: Claim) -> Measurement:
        query = claim.query
        cell = self._find(query["cell"], claim.needs)
        if cell is None:
            return _without(query["cell"])
        steps, (first, last) = self._study.steps, query["epochs"]
        chosen = steps["trial_id"].isin(self._ids([cell.cell_id])) & steps["epoch"].between(first, last)
        values = steps[chosen].groupby("trial_id")[query["column"]].mean().dropna()
        return Measurement(values.to_numpy(), (cell,))

    def _layer_values(self, claim: Claim) -> Measurement:
        query = claim.query
        cells = self._some(query["cell"], claim.needs)
        if not cells:
            return _without(query["cell"])
        rows = self._rows(cells, query, query["epochs"])
        values = _by_trial(rows, query).to_numpy()
        if query["statistic"] in ("min", "max"):
            return Measurement(values, cells, is_extreme=True)
        return _logarithmic(values, cells)

    def _layer_change(self, claim: Claim) -> Measurement:
        query = claim.query
        cell = self._find(query["cell"], claim.needs)
        if cell is None:
            return _without(query["cell"])
        early, late = (_by_trial(self._rows((cell,), query, query[phase]), query) for phase in ("from", "to"))
        ratios = (late / early).dropna()
        return _logarithmic(ratios.to_numpy(), (cell,))

    def _layer_order(self, claim: Claim) -> Measurement:
        """The share of pairs of groups that stand in the claimed order, by the mean over seeds of the group's value."""
        query = claim.query
        cell = self._find(query["cell"], claim.needs)
        if cell is None:
            return _without(query["cell"])
        found: dict[str, float] = {}
        for group in query["groups"]:
            rows = self._rows((cell,), Query(query.kind, {**query.fields, "groups": (group,)}), query["epochs"])
            values = _by_trial(rows, query).to_numpy()
            if len(values):
                found[group] = float(np.mean(values))
        if len(found) < len(query["groups"]):
            return Measurement(cells=(cell,))
        claimed = query["groups"]
        pairs = [(a, b) for number, a in enumerate(claimed) for b in claimed[number + 1 :]]
        share = sum(found[a] > found[b] for a, b in pairs) / max(len(pairs), 1)
        order = tuple(sorted(found, key=lambda group: -found[group]))
        num_seeds = len(self._ids([cell.cell_id]))
        return Measurement(np.full(num_seeds, share), (cell,), order=order)

    def _model(self, claim: Claim) -> Measurement:
        query, model = claim.query, self._study.model
        layers = model[model["width"] == query["width"]]
        if layers.empty:
            return _without({"width": query["width"]})
        value = model_quantity(layers, query["quantity"], query["layer"])
        if value is None:
            return Measurement(missing=(f"a layer {query['layer']!r}",))
        return Measurement(np.array([value]), is_exact=True)

    def _some(self, selector: Mapping[str, Any] | None, needs: Mapping[str, Any]) -> tuple[Cell, ...]:
        if selector is not None:
            cell = self._find(selector, needs)
            return () if cell is None else (cell,)
        fitting = tuple(c for c in self._study.info.cells if not unmet_config(c, needs, {}))
        return fitting or self._study.info.cells

    def _find(self, selector: Mapping[str, Any], needs: Mapping[str, Any]) -> Cell | None:
        """The cell with these fields; of several, the one that differs least from what the claim needs, if it is one."""
        matching = [c for c in self._study.info.cells if all(_equal(c.config.get(f), v) for f, v in selector.items())]
        distances = [len(unmet_config(cell, needs, selector)) for cell in matching]
        closest = [c for c, distance in zip(matching, distances, strict=True) if distance == min(distances)]
        return closest[0] if len(closest) == 1 else None

    def _ids(self, cell_ids: Sequence[str]) -> list[str]:
        trials = self._study.trials
        completed = trials["trial_id"].isin(self._study.completed_ids)
        return list(trials.loc[completed & trials["cell_id"].isin(cell_ids), "trial_id"])

    def _rows(self, cells: Sequence[Cell], query: Query, epochs: tuple[int, int] | None) -> pd.DataFrame:
        """The rows of layers that a query is about, its column as `value`."""
        rows = self._layers_of(tuple(cell.cell_id for cell in cells), query["column"])
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

    def _layers_of(self, cell_ids: tuple[str, ...], column: str) -> pd.DataFrame:
        """The layer records of one cell, read once with all columns that any claim asks of; of several, only this one."""
        ids = self._ids(cell_ids)
        if len(cell_ids) > 1:
            recorded = self._study.read_layers(["trial_id"])["trial_id"].astype("category").cat.categories
            everything = set(recorded) <= set(ids)  # not so with trials of a search, or of cells that are gone
            return self._study.read_layers([*_LAYER_KEYS, column], None if everything else ids)
        if cell_ids not in self._layers:
            asked = {
                claim.query["column"] for claim in self._study.claims.claims if claim.query.kind.startswith("layers")
            }
            self._layers[cell_ids] = self._study.read_layers([*_LAYER_KEYS, *sorted(asked)], ids)
        return self._layers[cell_ids]


def result_kind(query: Query) -> ColumnKind:
    """How the number that a query comes to is written."""
    if query.kind in ("metric", "difference"):
        metric = METRICS[query["metric"]]
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
        if name in cell.config and name not in selector and not _equal(cell.config[name], wanted)
    ]


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


def _without(*selectors: Mapping[str, Any] | None) -> Measurement:
    words = [", ".join(f"{name} {value}" for name, value in (selector or {}).items()) for selector in selectors]
    return Measurement(missing=tuple(words))


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
