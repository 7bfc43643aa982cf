"""The order of groups of layers by a column of layers, largest first."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from analysis.claims.claim import Claim, ClaimKind, Query
from analysis.claims.fields import ROWS, check_epochs
from analysis.claims.measures import Measurement, Measurements, by_trial
from analysis.statistics import mean_interval


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    """The share of pairs of groups that stand in the claimed order, by the mean over seeds of the group's value."""
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    found: dict[str, pd.Series[float]] = {}
    for group in query["groups"]:
        rows = measurements.layer_rows(
            (cell,), Query(query.kind, {**query.fields, "groups": (group,)}), query["epochs"]
        )
        found[group] = by_trial(rows, query)
    by_seed = pd.DataFrame(found).dropna()
    if by_seed.empty:
        return Measurement(cells=(cell,))
    means, pairs = by_seed.mean(), list(itertools.combinations(query["groups"], 2))
    share = sum(means[a] > means[b] for a, b in pairs) / max(len(pairs), 1)
    intervals = [mean_interval((by_seed[a] - by_seed[b]).to_numpy())[1:] for a, b in pairs]
    order = tuple(sorted(found, key=lambda group: -means[group]))
    return Measurement(np.full(len(by_seed), share), (cell,), order=order, pairs=np.array(intervals).reshape(-1, 2))


KIND = ClaimKind(
    name="layers_order", fields={**ROWS, "epochs": check_epochs}, optional=("kinds",), measure=measure,
    unit=lambda query: "number", ordered=True,
)  # fmt: skip
