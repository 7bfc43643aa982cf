"""The table `per_class`: test accuracy of every cell in every class."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.comparison.tested_images import (
    NOT_RECORDED,
    describe_images,
    is_recorded,
    measure_classes,
    read_correct_images,
)
from analysis.records.frames import Study
from analysis.records.image_files import read_test_labels
from analysis.results.cell_columns import add_factors
from analysis.results.result_table import TableColumn, TableContent, TableKind


def build_per_class(study: Study) -> TableContent:
    """One row per cell and class."""
    frame, reason = _measure(study)
    columns = (
        TableColumn("label", "cell"), TableColumn("class_name", "class"), TableColumn("images", "test images", "count"),
        TableColumn("seeds", "seeds", "count"), TableColumn("accuracy", "accuracy [95 %]", "accuracy", low="low", high="high"),
    )  # fmt: skip
    note = "Accuracy in the last epoch; each interval by itself over seeds (Student's t, cut off at 0 and 100 %), for these test images."
    notes = (reason,) if reason else describe_images(study, (note,))
    return TableContent(add_factors(study, frame), columns, notes)


def _measure(study: Study) -> tuple[pd.DataFrame, str]:
    """The rows, or none and the reason."""
    tested, labels, samples = (
        study.derive(read_correct_images),
        read_test_labels(study.folder),
        study.folder.read_samples(),
    )
    names = samples[1] if samples is not None else []
    if not tested.num_images:
        reason = NOT_RECORDED
    elif labels is None:
        reason = "The classes of the test images were not kept: an older study. Its command, once more, adds them."
    elif len(labels) != tested.num_images:
        reason = (
            f"The classes of {len(labels):,} test images were kept, and trials were tested on {tested.num_images:,}."
        )
    else:
        return measure_classes(study, labels, names), ""
    return measure_classes(study, np.empty(0, np.uint8), []), reason


TABLE = TableKind(
    name="per_class", section="variance", position=30, title="Accuracy by class", build=build_per_class, applies=is_recorded,
)  # fmt: skip
