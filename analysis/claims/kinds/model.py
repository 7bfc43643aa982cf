"""A number of the model of one width, or of one of its layers."""

from __future__ import annotations

import numpy as np

from analysis.claims.claim import Claim, Query
from analysis.claims.fields import Count, Text, one_of
from analysis.claims.measures import ClaimKind, Measurement, Measurements, Unmeasurable, model_quantity
from analysis.results.result_table import ColumnKind

QUANTITIES = (
    "macs", "flops_worksheet", "flops_fvcore", "flops_two_per_mac", "flops_two_per_mac_training", "num_parameters",
    "memory_mb", "flops_per_parameter", "num_tensors", "flops_worksheet_share",
)  # fmt: skip


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    query, model = claim.query, measurements.study.model
    layers = model[model["model"] == f"width {query['width']}"]  # of the published network alone
    if layers.empty:
        raise Unmeasurable(f"missing cells: the study has no width {query['width']}")
    value = model_quantity(layers, query["quantity"], query["layer"])
    if value is None:
        raise Unmeasurable(f"missing cells: the study has no layer {query['layer']!r}")
    return Measurement(np.array([value]), is_exact=True)


def _unit(query: Query) -> ColumnKind:
    if query["quantity"] in ("memory_mb", "flops_per_parameter"):
        return "number"
    return "percent" if query["quantity"].endswith("_share") else "count"


KIND = ClaimKind(
    name="model", fields={"quantity": one_of(QUANTITIES), "layer": Text, "width": Count}, optional=("layer",),
    measure=measure, unit=_unit,
)  # fmt: skip
