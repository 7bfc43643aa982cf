"""What trials settled at, over what theory predicts of their configuration, in the cell that is farthest from the law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.claims.claim import Claim, Query
from analysis.claims.fields import Count, one_of
from analysis.claims.measures import ClaimKind, Measurement, Measurements, Unmeasurable, unmet_config
from analysis.comparison.stability import angular_equilibrium, is_plain_sgd, plateaus, settled_angles, settled_sharpness
from analysis.records.study_json import Cell
from analysis.statistics import mean_interval

LAWS = ("sharpness_of_small_batches", "sharpness_of_large_batches", "angular_update")


def measure(measurements: Measurements, claim: Claim) -> Measurement:
    """The ratios of one cell's completed trials, on a log scale; cells that the claim's needs exclude are left out.

    A law holds in every cell that it is about, so the one whose mean is farthest from it decides; the intervals of all of them
    hold at once.
    """
    query, study = claim.query, measurements.study
    cells = tuple(cell for cell in study.info.cells if _is_about(cell, query))
    if not cells:
        raise Unmeasurable("missing cells: the study has none with such momentum and batch sizes")
    cells = tuple(cell for cell in cells if not unmet_config(cell, claim.needs, {})) or cells
    law = query["law"]
    predicted = {cell.cell_id: _predict(law, cell.config) for cell in cells}
    found = settled_angles(study) if law == "angular_update" else settled_sharpness(study)
    found = found[found["cell_id"].map(predicted) > 0]
    if found.empty:
        return Measurement(cells=cells)
    ratios = found["value"] / found["cell_id"].map(predicted)
    if (ratios <= 0).any():
        raise Unmeasurable(
            f"not positive in {(ratios <= 0).sum()} of {len(ratios)} trials, so it has no ratio to what is predicted"
        )
    by_cell = np.log10(ratios).groupby(found["cell_id"])
    farthest = by_cell.mean().abs().idxmax()
    values = by_cell.get_group(farthest).to_numpy()
    _, low, high = mean_interval(values, by_cell.ngroups)
    note = f"of {by_cell.ngroups} cells the farthest: {study.cells[farthest].label}" if by_cell.ngroups > 1 else ""
    return Measurement(values, cells, is_log=True, interval=(low, high), note=note)


def _predict(law: str, config: Mapping[str, Any]) -> float:
    if law == "angular_update":
        return angular_equilibrium(config)
    return plateaus(config)["small" if law == "sharpness_of_small_batches" else "large"]


def _is_about(cell: Cell, query: Query) -> bool:
    size, momentum = int(cell.config["batch_size"]), float(cell.config["momentum"])
    sizes = range(query["smallest_batch"] or 1, (query["largest_batch"] or size) + 1)
    return is_plain_sgd(cell.config) and (momentum > 0) == (query["momentum"] == "some") and size in sizes


KIND = ClaimKind(
    name="prediction", measure=measure, unit=lambda query: "number", optional=("smallest_batch", "largest_batch"),
    fields={
        "law": one_of(LAWS), "momentum": one_of(("none", "some")), "smallest_batch": Count,
        "largest_batch": Count,
    },
)  # fmt: skip
