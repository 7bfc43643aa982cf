"""Claims about metrics: one of a cell, and one of a cell less that of another, paired by seed."""

from __future__ import annotations

import numpy as np

from analysis.claims.claim import Claim, Query
from analysis.claims.fields import MetricName, Selector
from analysis.claims.measures import ClaimKind, Measurement, Measurements
from analysis.metrics import list_metrics
from analysis.results.result_table import ColumnKind


def measure_metric(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    values = measurements.trials.loc[measurements.trials["cell_id"] == cell.cell_id, query["metric"]].dropna()
    return Measurement(values.to_numpy(), (cell,))


def measure_difference(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    cells = measurements.find_cells(claim.needs, query["cell"], query["other"])
    by_seed = measurements.trials.pivot(index="seed", columns="cell_id", values=query["metric"])
    values = by_seed.reindex(columns=[cell.cell_id for cell in cells]).to_numpy(dtype=np.float64)
    differences = values[:, 0] - values[:, 1]
    return Measurement(differences[np.isfinite(differences)], cells)


def _unit_of_difference(query: Query) -> ColumnKind:
    metric = list_metrics()[query["metric"]]
    return "points" if metric.in_percent else metric.kind


METRIC = ClaimKind(
    name="metric", fields={"metric": MetricName, "cell": Selector}, measure=measure_metric,
    unit=lambda query: list_metrics()[query["metric"]].kind,
)  # fmt: skip
DIFFERENCE = ClaimKind(
    name="difference", fields={"metric": MetricName, "cell": Selector, "other": Selector},
    measure=measure_difference, unit=_unit_of_difference,
)  # fmt: skip
