"""The table `hypotheses`: what decides in the primary metric, of all that varies over the grid."""

from __future__ import annotations

from analysis.comparison.hypotheses import judge_hypotheses
from analysis.comparison.pairs import MOST_CELLS_IN_PAIRS, find_primary
from analysis.design.confounds import find_confounds
from analysis.records.frames import Study, count_training_images
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown


def build_hypotheses(study: Study) -> TableContent:
    """One row per quantity of which it is asked whether it alone decides."""
    metric = find_primary(study)
    confounds = find_confounds(study.info.cells, study.info.factors, count_training_images(study))
    frame = add_shown(
        judge_hypotheses(study, confounds), ("difference", "low", "high"), 100.0 if metric.in_percent else 1.0
    )
    columns = (
        TableColumn("quantity", "this alone decides"), TableColumn("verdict", "verdict"),
        TableColumn("pairs", "pairs that agree in it", "count"), TableColumn("different", "of them different", "count"),
        TableColumn("equivalent", "equivalent", "count"),
        TableColumn("shown_difference", "the farthest apart [95 %]", "number", low="shown_low", high="shown_high",
               unit="points" if metric.in_percent else ""),
        TableColumn("explained", "share of the spread between cells", "percent"),
    )  # fmt: skip
    notes = (
        f"In {metric.title}. If a quantity alone decided, cells that agree in it would be alike. refuted: a pair of them is different; "
        "supported: all are equivalent; undecided: neither; untested: no two cells agree in it.",
        "Share of the spread: between groups of cells that agree in the quantity, of that between all cells' means; more groups explain "
        "more by chance. Two hypotheses may both be supported: what the grid cannot tell apart stands under Confounds.",
    )
    return TableContent(
        frame, columns, notes if len(frame) else ("One factor varies, and nothing that follows from it.",)
    )


TABLE = TableKind(
    name="hypotheses", section="comparison", position=35, title="What decides", build=build_hypotheses,
    applies=lambda study: len(study.info.factors) > 1 and 2 < len(study.cells) <= MOST_CELLS_IN_PAIRS,
)  # fmt: skip
