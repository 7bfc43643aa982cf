"""The noise scale over the critical batch size that branches measured: one number for each branch point of a scaling."""

from __future__ import annotations

import math

import numpy as np

from analysis.claims.claim import Claim, ClaimKind
from analysis.claims.fields import one_of
from analysis.claims.measures import Measurement, Measurements, Unmeasurable, logarithmic
from analysis.comparison.branches import BranchPoint, list_points


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    """Of the branch points whose critical batch size has ends; where one has none, the study cannot say."""
    study = measurements.study
    points = [point for point in study.derive(list_points) if point.scaling == claim.query["scaling"]]
    if not points:
        raise Unmeasurable("no branches with this scaling of the learning rate ([branch] in a grid file)")
    if unclear := [point for point in points if not _is_closed(point)]:
        raise Unmeasurable(
            f"the interval of the critical batch size or of the noise scale is open at {len(unclear)} of {len(points)} branch points: "
            "more seeds, or larger batches"
        )
    cells = tuple(study.info.cells[place] for place in dict.fromkeys(point.place for point in points))
    return logarithmic(np.array([point.predicted.value / point.critical.value for point in points]), cells)


def _is_closed(point: BranchPoint) -> bool:
    return all(
        math.isfinite(end)
        for found in (point.critical, point.predicted)
        for end in (found.value, found.low, found.high)
    )


KIND = ClaimKind(
    name="critical_batch",
    fields={"scaling": one_of(("linear", "sqrt", "none"))},
    measure=measure,
    unit=lambda query: "number",
)
