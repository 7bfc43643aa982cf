"""The table `search_winners`: the winners of a search on the test set."""

from __future__ import annotations

from analysis.records.frames import Study
from analysis.results.formats import with_points
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.results.scaled import add_shown
from analysis.search.history import load_search
from analysis.search.winners import compare_contenders


def build_search_winners(study: Study) -> TableContent:
    """The winners on the test set, against the cells that the study was given, published ones among them."""
    search = load_search(study)
    shown = ("difference", "low", "high", "shrinkage", "shrinkage_low", "shrinkage_high")
    frame = add_shown(compare_contenders(search), shown)
    columns = (
        TableColumn("what", "what"), TableColumn("parameters", "configuration"), TableColumn("number", "trial", "count"),
        TableColumn("searched", f"{search.title()} when chosen", search.objectives[0].kind),
        TableColumn("seeds", "seeds", "count"), TableColumn("test_mean", "final test accuracy", "accuracy", spread="test_sd"),
        TableColumn("shown_shrinkage", "lost since, points [95 %]", "number", low="shown_shrinkage_low",
               high="shown_shrinkage_high"),
        TableColumn("against", "against"), TableColumn("verdict", "verdict"),
        TableColumn("shown_difference", "winner less other, points [95 %]", "number", low="shown_low", high="shown_high"),
        TableColumn("p", "p", "p_value"),
    )  # fmt: skip
    margin = with_points(f"{100 * study.info.equivalence_margin:g}")
    notes = [
        "A winner was chosen for its validation value, which is therefore too good. Confirmed: trained anew over fresh seeds "
        "on all training images, scored on the test set. Lost since: the value it was chosen for less the confirmed mean. A winner "
        "without such a value had been pruned: too few trials completed.",
        "The given cells (published, where numbers of theirs were) were searched without being chosen: what they lose (or gain) is due "
        "to other images and "
        "more of them. What a winner loses beyond that is the luck it was chosen for.",
        f"Verdicts as in the pairwise table, over common seeds, margin {margin}; the intervals of this table's rows hold at once.",
    ]
    if len(search.objective_columns) > 1:
        notes.append("Two objectives: the winners are those of the Pareto front that are best in the first one.")
    return TableContent(frame, columns, tuple(notes))


TABLE = TableKind(
    name="search_winners",
    section="search",
    position=10,
    title="Winners of the search, confirmed",
    build=build_search_winners,
)
