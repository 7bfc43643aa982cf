"""A column of layers in one phase of a cell over the same in an earlier one."""

from __future__ import annotations

from analysis.claims.claim import Claim, ClaimKind
from analysis.claims.fields import ROWS, check_epochs
from analysis.claims.measures import Measurement, Measurements, by_trial, logarithmic


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    early, late = (by_trial(measurements.layer_rows((cell,), query, query[phase]), query) for phase in ("from", "to"))
    ratios = (late / early).dropna()
    return logarithmic(ratios.to_numpy(), (cell,))


KIND = ClaimKind(
    name="layers_change", fields={**ROWS, "from": check_epochs, "to": check_epochs}, optional=("groups", "kinds"),
    measure=measure, unit=lambda query: "number", directions=("increase", "decrease"),
)  # fmt: skip
