"""The table `factors`: main effects and interactions of a full factorial grid."""

from __future__ import annotations

from analysis.comparison.effects import list_effects, measure_effects
from analysis.metrics import list_metrics
from analysis.records.frames import Study
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown, points_of


def build_factors(study: Study) -> TableContent:
    """The table `factors`."""
    frame = study.derive(measure_effects).copy()
    metrics = list_metrics()
    frame.insert(0, "title", [metrics[name].title for name in frame["metric"]])
    frame = add_shown(frame, ("value", "low", "high"), points_of(frame["metric"]))
    columns = (
        TableColumn("title", "metric"), TableColumn("kind", "kind"), TableColumn("effect", "effect"), TableColumn("seeds", "seeds", "count"),
        TableColumn("shown_value", "change [95 %]", "number", low="shown_low", high="shown_high"),
        TableColumn("p", "p", "p_value"), TableColumn("verdict", "verdict"),
    )  # fmt: skip
    if frame.empty:
        notes = ["No full factorial grid of two factors or more: main effects and interactions cannot be told apart."]
    else:
        notes = [
            "Accuracies in percentage points, losses in nats; over the seeds that completed every cell.",
            "Main effect: averaged over the levels of the other factors. Interaction: how much the first factor's effect "
            "changes with the second. The intervals of the primary metric hold at once, so do those of all other metrics together.",
        ]
    return TableContent(frame, columns, tuple(notes))


TABLE = TableKind(
    name="factors",
    section="comparison",
    position=30,
    title="Main effects and interactions",
    build=build_factors,
    applies=lambda study: bool(list_effects(study.info.cells, study.info.factors)),
)
