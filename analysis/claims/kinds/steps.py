"""A column of steps over some epochs of a cell: the mean where no statistic is named; `last` is that of the last step with a value."""

from __future__ import annotations

from analysis.claims.claim import Claim, ClaimKind
from analysis.claims.fields import check_epochs, check_selector, columns_of, one_of
from analysis.claims.measures import Measurement, Measurements, column_unit


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    query, statistic = claim.query, claim.query["statistic"] or "mean"
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    steps, (first, last) = measurements.study.steps, query["epochs"]
    chosen = steps["trial_id"].isin(measurements.trial_ids([cell.cell_id])) & steps["epoch"].between(first, last)
    values = steps[chosen].groupby("trial_id")[query["column"]].agg(statistic).dropna()
    return Measurement(values.to_numpy(), (cell,), is_extreme=statistic in ("min", "max"))


KIND = ClaimKind(
    name="steps", optional=("statistic",), measure=measure, unit=lambda query: column_unit(query["column"]),
    fields={
        "column": one_of(columns_of("steps")), "statistic": one_of(("mean", "min", "max", "last")), "epochs": check_epochs,
        "cell": check_selector,
    },
)  # fmt: skip
