"""A metric of one cell."""

from __future__ import annotations

from analysis.claims.claim import Claim, ClaimKind
from analysis.claims.fields import check_metric, check_selector
from analysis.claims.measures import Measurement, Measurements
from analysis.metrics import list_metrics


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    values = measurements.trials.loc[measurements.trials["cell_id"] == cell.cell_id, query["metric"]].dropna()
    return Measurement(values.to_numpy(), (cell,))


KIND = ClaimKind(
    name="metric", fields={"metric": check_metric, "cell": check_selector}, measure=measure,
    unit=lambda query: list_metrics()[query["metric"]].kind,
)  # fmt: skip
