"""Claims about the course of training of a cell: a column of epochs after one epoch, or of steps over some epochs."""

from __future__ import annotations

from analysis.claims.claim import Claim
from analysis.claims.fields import Count, Epochs, Selector, columns_of, one_of
from analysis.claims.measures import ClaimKind, Measurement, Measurements, column_unit


def measure_epoch(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    epochs = measurements.study.epochs
    chosen = epochs["trial_id"].isin(measurements.trial_ids([cell.cell_id])) & (epochs["epoch"] == query["epoch"])
    return Measurement(epochs.loc[chosen, query["column"]].dropna().to_numpy(), (cell,))


def measure_steps(measurements: Measurements, claim: Claim) -> Measurement:
    """The mean where no statistic is named; `last` is that of the last step with a value."""
    query, statistic = claim.query, claim.query["statistic"] or "mean"
    (cell,) = measurements.find_cells(claim.needs, query["cell"])
    steps, (first, last) = measurements.study.steps, query["epochs"]
    chosen = steps["trial_id"].isin(measurements.trial_ids([cell.cell_id])) & steps["epoch"].between(first, last)
    values = steps[chosen].groupby("trial_id")[query["column"]].agg(statistic).dropna()
    return Measurement(values.to_numpy(), (cell,), is_extreme=statistic in ("min", "max"))


EPOCH = ClaimKind(
    name="epoch", fields={"column": one_of(columns_of("epochs")), "epoch": Count, "cell": Selector},
    measure=measure_epoch, unit=lambda query: column_unit(query["column"]),
)  # fmt: skip
STEPS = ClaimKind(
    name="steps", optional=("statistic",), measure=measure_steps, unit=lambda query: column_unit(query["column"]),
    fields={
        "column": one_of(columns_of("steps")), "statistic": one_of(("mean", "min", "max", "last")), "epochs": Epochs,
        "cell": Selector,
    },
)  # fmt: skip
