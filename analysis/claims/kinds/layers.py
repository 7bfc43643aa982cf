"""Claims about a column of layers, over groups and kinds of tensors: its size, its change and the order of the groups by it."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from analysis.claims.claim import Claim, Query
from analysis.claims.fields import ROWS, Epochs, Selector, some_of
from analysis.claims.measures import ClaimKind, Measurement, Measurements, by_trial, column_unit, logarithmic
from analysis.records.frames import FINISHED
from analysis.statistics import mean_interval


def measure_layers(measurements: Measurements, claim: Claim) -> Measurement:
    """Over some epochs of one cell, of `cells`, or of every cell that fits what the claim needs.

    An extreme counts diverged trials, too.
    """
    query = claim.query
    cells = measurements.some_cells(query, claim.needs)
    if query["statistic"] not in ("min", "max"):
        return logarithmic(by_trial(measurements.layer_rows(cells, query, query["epochs"]), query).to_numpy(), cells)
    values = by_trial(measurements.layer_rows(cells, query, query["epochs"], (FINISHED, "diverged")), query)
    unmeasured = [cell.label for cell in cells if not set(measurements.trial_ids([cell.cell_id])) & set(values.index)]
    obstacle = f"no completed trial with such measurements of {', '.join(unmeasured)}" if unmeasured else ""
    return Measurement(values.to_numpy(), cells, is_extreme=True, obstacle=obstacle if len(values) else "")


def measure_change(measurements: Measurements, claim: Claim) -> Measurement:
    """In one phase of a cell over the same in an earlier one."""
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    early, late = (by_trial(measurements.layer_rows((cell,), query, query[phase]), query) for phase in ("from", "to"))
    ratios = (late / early).dropna()
    return logarithmic(ratios.to_numpy(), (cell,))


def measure_order(measurements: Measurements, claim: Claim) -> Measurement:
    """The share of pairs of groups that stand in the claimed order, largest first, by the mean over seeds of the group's value."""
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    found: dict[str, pd.Series[float]] = {}
    for group in query["groups"]:
        of_group = Query(query.kind, {**query.fields, "groups": (group,)})
        found[group] = by_trial(measurements.layer_rows((cell,), of_group, query["epochs"]), query)
    by_seed = pd.DataFrame(found).dropna()
    if by_seed.empty:
        return Measurement(cells=(cell,))
    means, pairs = by_seed.mean(), list(itertools.combinations(query["groups"], 2))
    share = sum(means[a] > means[b] for a, b in pairs) / max(len(pairs), 1)
    intervals = [mean_interval((by_seed[a] - by_seed[b]).to_numpy())[1:] for a, b in pairs]
    order = tuple(sorted(found, key=lambda group: -means[group]))
    return Measurement(np.full(len(by_seed), share), (cell,), order=order, pairs=np.array(intervals).reshape(-1, 2))


LAYERS = ClaimKind(
    name="layers", fields={**ROWS, "epochs": Epochs, "cells": some_of(Selector)}, measure=measure_layers,
    optional=("groups", "kinds", "epochs", "cell", "cells"), unit=lambda query: column_unit(query["column"]),
)  # fmt: skip
CHANGE = ClaimKind(
    name="layers_change", fields={**ROWS, "from": Epochs, "to": Epochs}, optional=("groups", "kinds"),
    measure=measure_change, unit=lambda query: "number", directions=("increase", "decrease"),
)  # fmt: skip
ORDER = ClaimKind(
    name="layers_order", fields={**ROWS, "epochs": Epochs}, optional=("kinds",), measure=measure_order,
    unit=lambda query: "number", ordered=True,
)  # fmt: skip
