"""The table `pairs_by_image`: how sure a difference of two cells is over test images, beside how sure it is over seeds."""

from __future__ import annotations

from analysis.comparison.tested_images import describe_images, is_recorded, measure_pairs
from analysis.records.frames import Study
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown


def build_pairs_by_image(study: Study) -> TableContent:
    """One row per pair of cells."""
    frame = add_shown(measure_pairs(study), ("difference", "error_images", "error_seeds"))
    columns = (
        TableColumn("label_a", "cell A"), TableColumn("label_b", "cell B"), TableColumn("seeds", "seeds", "count"),
        TableColumn("shown_difference", "A - B", "number", unit="points"),
        TableColumn("shown_error_images", "standard error over images", "number", unit="points"),
        TableColumn("shown_error_seeds", "over seeds", "number", unit="points"),
        TableColumn("agreement", "agreement", "percent"),
    )  # fmt: skip
    notes = (
        "Difference of test accuracy in the last epoch, over the seeds that both completed. Over images: how far it would move with "
        "other test images and these trainings, paired by image. Over seeds: with other seeds and these test images, paired by seed; "
        "the verdicts are about these.",
        "Agreement: share of test images on which a training of A and one of B are both right or both wrong, mean over all pairs.",
    )
    return TableContent(frame, columns, describe_images(study, notes))


TABLE = TableKind(
    name="pairs_by_image", section="variance", position=20, title="Pairs of cells over images and over seeds",
    build=build_pairs_by_image, applies=lambda study: len(study.cells) > 1 and is_recorded(study),
)  # fmt: skip
