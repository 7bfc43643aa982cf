"""The table `pairwise`: every pair of cells in every metric, with interval, verdict, effect size and chance of improvement."""

from __future__ import annotations

from analysis.comparison.pairs import MOST_CELLS_IN_PAIRS, compare_cells, find_primary
from analysis.metrics import list_metrics
from analysis.records.frames import Study
from analysis.results.formats import with_points
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown, points_of
from analysis.statistics import MOST_SEEDS, POWER


def build_pairwise(study: Study) -> TableContent:
    """The table `pairwise`."""
    frame = study.derive(compare_cells).copy()
    metrics = list_metrics()
    frame.insert(0, "title", [metrics[name].title for name in frame["metric"]])
    # Accuracies and losses stand in one column: as plain numbers, accuracies in points, each with its own digits.
    frame = add_shown(frame, ("difference", "low", "high"), points_of(frame["metric"]))
    columns = (
        TableColumn("title", "metric"), TableColumn("label_a", "cell A"), TableColumn("label_b", "cell B"),
        TableColumn("seeds", "seeds", "count"), TableColumn("verdict", "verdict"),
        TableColumn("shown_difference", "A - B [95 %]", "number", low="shown_low", high="shown_high"),
        TableColumn("p", "p", "p_value"), TableColumn("effect_size", "effect size [95 %]", "number", low="effect_low", high="effect_high"),
        TableColumn("chance", "chance that A is better [95 %]", "percent", low="chance_low", high="chance_high"),
        TableColumn("wins", "A better in", "count", unit="seeds"),
        TableColumn("more_seeds", "more seeds", "count"), TableColumn("reason", "reason"),
    )  # fmt: skip
    margin = with_points(f"{100 * study.info.equivalence_margin:g}")
    notes = [
        "Accuracies in percentage points, losses in nats; paired by seed.",
        f"The interval decides. different: it excludes 0; equivalent: it lies within {margin} of it (accuracies only); "
        "undecided: neither, which does not mean equal.",
        f"With probability 95 % all intervals in {find_primary(study).title}, the primary metric, hold at once, and so do all those "
        "in the other metrics together (Bonferroni, t); p is corrected alike.",
        "Effect size: mean over standard deviation of the differences (Hedges' correction). Chance that A is better: on one further "
        "seed, were differences normally distributed; above or below 50 % for certain where the verdict is different.",
        f"More seeds: a rough guess of how many would settle it with {POWER:.0%} probability, were mean and spread as now; "
        f"{MOST_SEEDS:,} stands for that many or more.",
    ]
    if study.info.stopping is not None:
        notes.append(_stopping_note(study.info.stopping))
    if len(study.cells) > MOST_CELLS_IN_PAIRS:
        notes.append(f"{len(study.cells)} cells: each is compared with the first one only.")
    return TableContent(frame, columns, tuple(notes))


def _stopping_note(stopping: dict[str, int]) -> str:
    return (
        f"Seeds were added until the primary question was settled, with a look at every number of seeds from {stopping['first']} to "
        f"{stopping['most']}; the intervals are wider for it, so that all looks hold at once."
    )


TABLE = TableKind(
    name="pairwise",
    section="comparison",
    position=20,
    title="Pairwise comparison of the cells",
    build=build_pairwise,
    wandb=True,
)
