"""A column of epochs after one epoch of a cell."""

from __future__ import annotations

from analysis.claims.claim import Claim, ClaimKind
from analysis.claims.fields import check_count, check_selector, columns_of, one_of
from analysis.claims.measures import Measurement, Measurements, column_unit


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    epochs = measurements.study.epochs
    chosen = epochs["trial_id"].isin(measurements.trial_ids([cell.cell_id])) & (epochs["epoch"] == query["epoch"])
    return Measurement(epochs.loc[chosen, query["column"]].dropna().to_numpy(), (cell,))


KIND = ClaimKind(
    name="epoch", fields={"column": one_of(columns_of("epochs")), "epoch": check_count, "cell": check_selector},
    measure=measure, unit=lambda query: column_unit(query["column"]),
)  # fmt: skip
