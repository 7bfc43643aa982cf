"""What a claim's query comes to in a study: one number per completed trial of the cell that it names.

A module of analysis/claims/kinds declares a kind of query as `KIND = ClaimKind(...)`, and nothing else needs to know it; it finds
cells and records through `Measurements`. It says what was measured and where; whether that reproduces the claim is for verdicts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import create_model

from analysis.claims.claim import Claim, Query
from analysis.claims.fields import Table
from analysis.records.factors import same_value
from analysis.records.frames import FINISHED, Study
from analysis.records.study_json import Cell
from analysis.records.summary import summarize_trials
from analysis.results.result_table import ColumnKind
from trainable.discovery import discover

_LAYER_KEYS = ("trial_id", "epoch", "layer", "group", "kind")


@dataclass(frozen=True)
class Measurement:
    """What a query found.

    `values` has one number per seed, on a log10 scale where `is_log`; a quantity of the model has one and `is_exact`. Of an
    extreme the worst of all `values` is held against a bound. `pairs` has for each pair of groups in a claimed order the
    ends of the interval of their difference. `interval` replaces the t interval of `values`, where it is not one of seeds alone;
    `seeds` is how many are in it. `obstacle` says why the study cannot test the claim, where that is so, `note` what was taken.
    """

    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    cells: tuple[Cell, ...] = ()
    obstacle: str = ""
    is_log: bool = False
    is_exact: bool = False
    is_extreme: bool = False
    order: tuple[str, ...] = ()
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    interval: tuple[float, float] | None = None
    seeds: int | None = None
    note: str = ""

    @property
    def num_seeds(self) -> int:
        """0 for a quantity of the model."""
        return 0 if self.is_exact else len(self.values) if self.seeds is None else self.seeds


class Unmeasurable(Exception):
    """The study cannot be asked; the message says why."""


class Measurements:
    """Measures the queries of many claims in one study, reading each record once."""

    def __init__(self, study: Study, claims: Iterable[Claim]) -> None:
        self.study = study
        self._columns = {claim.query["column"] for claim in claims if claim.query.kind.startswith("layers")}
        self.trials = summarize_trials(study)
        self._kinds = claim_kinds()
        self._layers: dict[tuple[str, ...], pd.DataFrame] = {}

    def measure(self, claim: Claim) -> Measurement:
        """What the claim's query comes to."""
        try:
            return self._kinds[claim.query.kind].measure(self, claim)
        except Unmeasurable as problem:
            return Measurement(obstacle=str(problem))

    def some_cells(self, query: Query, needs: Mapping[str, Any]) -> tuple[Cell, ...]:
        if query.selectors:
            return self.find_cells(needs, *query.selectors)
        if not self.study.info.cells:
            raise Unmeasurable("missing cells: the study has none")
        fitting = tuple(c for c in self.study.info.cells if not unmet_config(c, needs, {}))
        return fitting or self.study.info.cells

    def find_cells(self, needs: Mapping[str, Any], *selectors: Mapping[str, Any]) -> tuple[Cell, ...]:
        """For each selector the cell with these fields; of several, the one that differs least from what the claim needs."""
        found = [(_words(selector), self._closest(selector, needs)) for selector in selectors]
        if missing := [words for words, cells in found if not cells]:
            raise Unmeasurable(f"missing cells: the study has no {' and no '.join(missing)}")
        for words, cells in found:
            if len(cells) > 1:
                labels = ", ".join(cell.label for cell in cells)
                raise Unmeasurable(f"several cells fit {words} equally well: {labels}")
        return tuple(cells[0] for _, cells in found)

    def _closest(self, selector: Mapping[str, Any], needs: Mapping[str, Any]) -> list[Cell]:
        matching = [
            c for c in self.study.info.cells if all(same_value(c.config.get(f), v) for f, v in selector.items())
        ]
        distances = [len(unmet_config(cell, needs, selector)) for cell in matching]
        return [c for c, distance in zip(matching, distances, strict=True) if distance == min(distances)]

    def trial_ids(self, cell_ids: Sequence[str], statuses: Sequence[str] = (FINISHED,)) -> list[str]:
        trials = self.study.trials
        return list(trials.loc[trials["status"].isin(statuses) & trials["cell_id"].isin(cell_ids), "trial_id"])

    def layer_rows(
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
        ids = self.trial_ids(cell_ids, statuses)
        if len(cell_ids) > 1 or len(statuses) > 1:
            recorded = self.study.read_layers(["trial_id"])["trial_id"].astype("category").cat.categories
            everything = set(recorded) <= set(ids)  # not so with trials of a search, or of cells that are gone
            return self.study.read_layers([*_LAYER_KEYS, column], None if everything else ids)
        if cell_ids not in self._layers:
            self._layers[cell_ids] = self.study.read_layers([*_LAYER_KEYS, *sorted(self._columns)], ids)
        return self._layers[cell_ids]


@dataclass(frozen=True, kw_only=True)
class ClaimKind:
    """A kind of claim: what its query asks for and how that is measured.

    name: the `kind` of its queries.
    fields: of a query, each with the type of its value (fields.py); `optional` ones may be left out.
    measure: what a query comes to in a study; `measurements` find cells and records.
    unit: how the number that a query comes to is written.
    ordered: it claims an order, so that `expect = { order = true }` belongs to it.
    directions: what `expect = { direction = ... }` is called where it is shown, positive and negative.
    """

    name: str
    fields: Mapping[str, Any]
    measure: Callable[[Measurements, Claim], Measurement]
    unit: Callable[[Query], ColumnKind]
    optional: tuple[str, ...] = ()
    ordered: bool = False
    directions: tuple[str, str] = ("above 0", "below 0")

    @cached_property
    def table(self) -> type[Table]:
        """Its queries as pydantic reads them, but for their kind."""
        fields: dict[str, Any] = {
            n: (t | None, None) if n in self.optional else (t, ...) for n, t in self.fields.items()
        }
        return create_model(self.name, __base__=Table, **fields)


def claim_kinds() -> dict[str, ClaimKind]:
    """Every kind that is declared, by name."""
    return discover("analysis.claims.kinds", ClaimKind)


def column_unit(column: str) -> ColumnKind:
    """How the values of a column of the records are written."""
    by_ending: dict[str, ColumnKind] = {"accuracy": "accuracy", "loss": "loss", "rate": "learning_rate"}
    return by_ending.get(column.rsplit("_", 1)[-1], "scientific")


def unmet_config(cell: Cell, needs: Mapping[str, Any], selector: Mapping[str, Any]) -> list[str]:
    """The configuration fields that a claim needs and the cell has otherwise, in words; `selector` goes before needs."""
    return [
        f"{name} is {cell.config[name]} instead of {wanted}"
        for name, wanted in needs.items()
        if name in cell.config
        and name not in selector
        and not any(same_value(cell.config[name], value) for value in (wanted, *_AS_GOOD.get((name, wanted), ())))
    ]


_AS_GOOD = {("precision", "published"): ("fp32",)}  # what a claim that needs the one holds for too


def model_quantity(layers: pd.DataFrame, quantity: str, layer: str | None = None) -> float | None:
    """A number of one model, or of one of its layers; `layers` are its rows of model.parquet. None: no such layer, or
    FLOPs by a convention that is not defined for it."""
    rows = layers if layer is None else layers[layers["layer"] == layer]
    if rows.empty:
        return None
    if quantity == "memory_mb":
        return float(rows["num_parameters"].sum() * 4 / 2**20)
    convention = "flops_worksheet" if quantity in ("flops_per_parameter", "flops_worksheet_share") else quantity
    if convention in layers and layers[convention].isna().all():
        return None
    if quantity == "flops_per_parameter":
        return float(rows["flops_worksheet"].sum() / rows["num_parameters"].sum())
    if quantity == "flops_worksheet_share":
        return float(rows["flops_worksheet"].sum() / layers["flops_worksheet"].sum())
    if quantity == "num_tensors":
        return float(rows["kind"].map({"conv": 1, "bn": 2, "linear": 2}).fillna(0).sum())
    return float(rows[quantity].sum())


def by_trial(rows: pd.DataFrame, query: Query) -> pd.Series[float]:
    """The statistic of the query for each trial; log_spread is the standard deviation over tensors of log10 of the mean."""
    found: pd.Series[float]
    if query["statistic"] == "log_spread":
        means = rows.groupby(["trial_id", "layer"], observed=True)["value"].mean()
        found = np.log10(means[means > 0]).groupby("trial_id", observed=True).std().dropna()
    else:
        found = rows.groupby("trial_id", observed=True)["value"].agg(query["statistic"]).dropna()
    return found


def logarithmic(values: np.ndarray, cells: tuple[Cell, ...]) -> Measurement:
    """Magnitudes are compared by their ratios; a value of 0 has none and is left out."""
    values = np.asarray(values, dtype=np.float64)
    return Measurement(np.log10(values[values > 0]), cells, is_log=True)


def _words(selector: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in selector.items())
