"""The table `best`: the cells by their primary metric, and which of them may be the best."""

from __future__ import annotations

from analysis.comparison.best import rank_cells
from analysis.comparison.pairs import find_primary
from analysis.records.frames import Study
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown


def build_best(study: Study) -> TableContent:
    """One row per cell, the best first; of two cells the pairwise table says it all."""
    metric, frame = find_primary(study), study.derive(rank_cells).copy()
    if len(frame) < 3:
        frame = frame.iloc[:0]
    frame = add_shown(frame, ("behind", "low", "high"), 100.0 if metric.in_percent else 1.0)
    unit = "points" if metric.in_percent else ""
    columns = (
        TableColumn("label", "cell"), TableColumn("seeds", "seeds", "count"), TableColumn("mean", metric.title, metric.kind, spread="sd"),
        TableColumn("shown_behind", "less the best other [95 %]", "number", low="shown_low", high="shown_high", unit=unit),
        TableColumn("may_be_best", "may be the best", "flag"),
    )  # fmt: skip
    notes = (
        "Multiple comparisons with the best (Hsu), paired by seed: the cells that may be the best hold the best one in 95 % of "
        "studies, and all intervals hold at once. An interval that ends at 0 says on which side the truth lies.",
        "They ask less than the pairwise table, and can therefore say more: which cells are worse than the best, not how any two differ.",
    )
    return TableContent(frame, columns, notes if len(frame) else ("Two cells: see the pairwise comparison.",))


TABLE = TableKind(
    name="best", section="comparison", position=15, title="The best cells", build=build_best, wandb=True,
    applies=lambda study: len(study.cells) > 2,
)  # fmt: skip
