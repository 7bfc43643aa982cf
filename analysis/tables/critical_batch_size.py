"""The tables `critical_batch_size` and `branches`: where larger batches stop being as good image for image, by branching."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.comparison.branches import list_points, tolerance_of
from analysis.comparison.critical_batch import Located, describe
from analysis.records.frames import Study
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.statistics import compare_paired

_POINT = (
    TableColumn("label", "cell"),
    TableColumn("epoch", "after epoch", "count", meaning="of the parents, from whose state the branches go on"),
    TableColumn("scaling", "learning rate", meaning="how it is scaled with the batch size: linear, sqrt or none"),
)


def build_critical_batch_sizes(study: Study) -> TableContent:
    """One row per branch point."""
    tolerance = tolerance_of(study)
    rows = [
        {
            "label": point.label, "epoch": point.epoch, "scaling": point.scaling, "images": point.images,
            "base": point.base, "largest": point.batch_sizes[-1],
            "seeds": int(np.isfinite(point.losses).all(axis=0).sum()),
            **_numbers("critical", point.critical), **_numbers("noise_scale", point.predicted),
            "critical_said": describe(point.critical, point.batch_sizes[-1]), "noise_said": describe(point.predicted),
            "verdict": point.verdict,
        }
        for point in study.derive(list_points)
    ]  # fmt: skip
    columns = (
        *_POINT,
        TableColumn("seeds", "seeds", "count"),
        TableColumn("images", "images", "count", meaning="that each branch saw"),
        TableColumn("base", "base batch", "count"),
        TableColumn("largest", "largest batch", "count"),
        TableColumn(
            "critical_said", "critical batch size [95 %]",
            meaning=f"where the loss is worse than the base's by {tolerance:g} nats",
        ),
        TableColumn("noise_said", "noise scale [95 %]", meaning="tr(S) / |G|² of the parents at the branch point"),
        TableColumn("verdict", "the noise scale is", meaning="intervals apart, or overlapping and each narrower than 16 times"),
    )  # fmt: skip
    notes = (
        f"Branches go on from the same state with the same images in the same order; one has departed where its loss is worse than that "
        f"of the base branch by more than {tolerance:g} nats (arXiv 2505.23971). docs/branching.md has the definition.",
    )
    return TableContent(pd.DataFrame(rows, columns=list(_NAMES)), columns, notes)


_NAMES = (
    "label", "epoch", "scaling", "seeds", "images", "base", "largest", "critical", "critical_low", "critical_high",
    "critical_said", "noise_scale", "noise_scale_low", "noise_scale_high", "noise_said", "verdict",
)  # fmt: skip


def _numbers(name: str, found: Located) -> dict[str, float]:
    """Raw numbers; an end that is open is missing."""
    values = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: value if np.isfinite(value) else np.nan for key, value in values.items()}


def build_branches(study: Study) -> TableContent:
    """One row per branch point and batch size; intervals are of each difference by itself."""
    rows = []
    for point in study.derive(list_points):
        base = point.losses[point.batch_sizes.index(point.base)] if point.base in point.batch_sizes else np.nan
        found = compare_paired(point.losses - base, 1)
        for place, size in enumerate(point.batch_sizes):
            known = np.isfinite(point.losses[place])
            rows.append(
                {
                    "label": point.label, "epoch": point.epoch, "scaling": point.scaling, "batch_size": size,
                    "seeds": int(known.sum()), "loss": float(np.mean(point.losses[place][known])),
                    "difference": found.mean[place], "low": found.low[place], "high": found.high[place],
                }
            )  # fmt: skip
    names = ["label", "epoch", "scaling", "batch_size", "seeds", "loss", "difference", "low", "high"]
    columns = (
        *_POINT,
        TableColumn("batch_size", "batch", "count"),
        TableColumn("seeds", "seeds", "count"),
        TableColumn("loss", "loss after the branch", "loss", meaning="of the same training images in the same batches"),
        TableColumn("difference", "less the base's [95 %]", "loss", low="low", high="high"),
    )
    return TableContent(pd.DataFrame(rows, columns=names), columns, () if rows else ("No branch has ended.",))


CRITICAL_BATCH_SIZE = TableKind(
    name="critical_batch_size", section="branches", position=10, title="Critical batch size by branching",
    build=build_critical_batch_sizes, wandb=True, applies=lambda study: study.info.branch is not None,
)  # fmt: skip
BRANCHES = TableKind(
    name="branches", section="branches", position=30, title="Loss after each branch", build=build_branches, wandb=True,
    applies=lambda study: study.info.branch is not None,
)  # fmt: skip
