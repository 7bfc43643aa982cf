"""The table `test_variance`: how much of a cell's spread between seeds is the finite test set, and how alike trainings are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analysis.comparison.tested_images import describe_images, is_recorded, measure_cells
from analysis.records.frames import Study
from analysis.results.cell_columns import add_factors
from analysis.results.formats import format_value, with_points
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown


def build_variance(study: Study) -> TableContent:
    """One row per cell."""
    frame = add_factors(study, measure_cells(study))
    frame["between_trainings"] = [_describe_trainings(row) for row in frame.to_dict("records")]
    frame = add_shown(frame, ("variance", "test_set", "trainings", "low", "high"), 1e4)  # squares
    columns = (
        TableColumn("label", "cell"), TableColumn("seeds", "seeds", "count"), TableColumn("images", "test images", "count"),
        TableColumn("accuracy", "test accuracy", "accuracy", spread="sd"),
        TableColumn("shown_variance", "variance between seeds", "number", unit="points²"),
        TableColumn("shown_test_set", "of the finite test set", "number", unit="points²"),
        TableColumn("shown_trainings", "between trainings [95 %]", "number", low="shown_low", high="shown_high", unit="points²"),
        TableColumn("between_trainings", "sd between trainings"),
        TableColumn("agreement", "agreement between seeds", "percent"),
        TableColumn("agreement_others", "with other cells", "percent"),
    )  # fmt: skip
    notes = (
        "Two trainings that are equally good get different images of a finite test set right. What trainings differ in beyond that, "
        "and would on an endless test set, is estimated without bias (Jordan, arXiv 2304.01910), as a variance that may be negative: "
        "then there is none to be seen. Its interval takes accuracies to be normally distributed; few seeds leave it wide.",
        "Agreement: share of test images on which two trainings are both right or both wrong, mean over pairs of trainings.",
    )
    return TableContent(frame, columns, describe_images(study, notes))


def _describe_trainings(row: Mapping[Any, Any]) -> str:
    variance = float(row["trainings"])
    if math.isnan(variance):
        return "-"
    if variance <= 0:
        return "none to be seen"
    doubt = "" if row["low"] > 0 else ", perhaps none"
    return with_points(format_value(math.sqrt(variance), "points")) + doubt


TABLE = TableKind(
    name="test_variance", section="variance", position=10, title="The test set and the trainings", build=build_variance,
    applies=is_recorded,
)  # fmt: skip
