"""A column of layers: over groups and kinds of tensors and some epochs of one cell, of `cells`, or of every cell that fits what
the claim needs. An extreme counts diverged trials, too.
"""

from __future__ import annotations

from analysis.claims.claim import Claim, ClaimKind
from analysis.claims.fields import ROWS, check_epochs, check_selectors
from analysis.claims.measures import Measurement, Measurements, by_trial, column_unit, logarithmic
from analysis.records.frames import FINISHED


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    query = claim.query
    cells = measurements.some_cells(query, claim.needs)
    if query["statistic"] not in ("min", "max"):
        return logarithmic(by_trial(measurements.layer_rows(cells, query, query["epochs"]), query).to_numpy(), cells)
    values = by_trial(measurements.layer_rows(cells, query, query["epochs"], (FINISHED, "diverged")), query)
    unmeasured = [cell.label for cell in cells if not set(measurements.trial_ids([cell.cell_id])) & set(values.index)]
    obstacle = f"no completed trial with such measurements of {', '.join(unmeasured)}" if unmeasured else ""
    return Measurement(values.to_numpy(), cells, is_extreme=True, obstacle=obstacle if len(values) else "")


KIND = ClaimKind(
    name="layers", fields={**ROWS, "epochs": check_epochs, "cells": check_selectors}, measure=measure,
    optional=("groups", "kinds", "epochs", "cell", "cells"), unit=lambda query: column_unit(query["column"]),
)  # fmt: skip
