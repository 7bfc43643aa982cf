"""The noise scale over the critical batch size that branches measured, at the branch point where it is farthest from 1."""

from __future__ import annotations

import math

import numpy as np

from analysis.claims.claim import Claim
from analysis.claims.fields import one_of
from analysis.claims.measures import ClaimKind, Measurement, Measurements, Unmeasurable
from analysis.comparison.branches import BranchPoint, list_points


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    """On a log scale, with the interval from the least to the most that both intervals of the point allow, which holds as each
    of them does, however they depend on each other. Where one of any point is open, the study cannot say.
    """
    study = measurements.study
    points = [point for point in study.derive(list_points) if point.scaling == claim.query["scaling"]]
    if not points:
        raise Unmeasurable("no branches with this scaling of the learning rate ([branch] in a grid file)")
    if unclear := [point for point in points if not _is_closed(point)]:
        raise Unmeasurable(
            f"the interval of the critical batch size or of the noise scale is open at {len(unclear)} of {len(points)} branch points: "
            "more seeds, or larger batches"
        )
    farthest = max(points, key=lambda point: abs(math.log(point.predicted.value / point.critical.value)))
    critical, predicted = farthest.critical, farthest.predicted
    value, low, high = (
        np.log10(ratio)
        for ratio in (predicted.value / critical.value, predicted.low / critical.high, predicted.high / critical.low)
    )
    note = (
        f"of {len(points)} branch points the farthest: {farthest.label}, epoch {farthest.epoch}"
        if len(points) > 1
        else ""
    )
    cells = tuple(study.info.cells[index] for index in dict.fromkeys(point.cell_index for point in points))
    return Measurement(
        np.array([value]), cells, is_log=True, interval=(low, high), seeds=len(farthest.seeds), note=note
    )


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
