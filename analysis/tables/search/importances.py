"""The table `search_importances`: what goes along with the objective of a search."""

from __future__ import annotations

from analysis.records.frames import Study
from analysis.results.result_table import TableColumn, TableContent, TableKind
from analysis.search.dynamics import QUANTITIES
from analysis.search.history import load_search
from analysis.search.importances import FEWEST_TRIALS, load_importances


def build_search_importances(study: Study) -> TableContent:
    """What goes along with the objective, with the spread that a small number of trials leaves."""
    search = load_search(study)
    frame = load_importances(search).copy()
    frame.insert(1, "title", [QUANTITIES.get(name, name.replace("_", " ")) for name in frame["quantity"]])
    columns = (
        TableColumn("kind", "kind"), TableColumn("target", "for"), TableColumn("title", "quantity"),
        TableColumn("importance", "importance [range over resamples]", "number", low="low", high="high"),
        TableColumn("chance", "reached by chance", "number"), TableColumn("above_chance", "more than chance", "flag"),
        TableColumn("rank_correlation", "rank correlation", "number"), TableColumn("p_value", "p", "p_value"),
        TableColumn("trials", "trials", "count"),
    )  # fmt: skip
    if frame.empty:
        notes = [f"Fewer than {FEWEST_TRIALS} completed trials, or nothing that varies: no importances."]
    else:
        notes = [
            f"Associations with {search.title()}, not effects: the early dynamics follow from the hyperparameters, and of "
            "pruned trials the final value is not known.",
            "Twice where trials were pruned: for the final value among completed trials, and for the value after the last epoch "
            "that nearly all trials reached, pruned ones included. What was measured in those same epochs foretells nothing then.",
            "Importance: share of a random forest's variance that the quantity explains by itself (fANOVA, on the scale that "
            "is searched). In brackets: 90 % over resampled trials, widened where that misses the importance itself. Reached by "
            "chance: its 95 % point with the objective shuffled; below it, read nothing into the row.",
            "Training dynamics: means over the first fifth of the epochs. Rank correlation: Spearman's, p not corrected.",
            f"Sampler {search.description.sampler}: trials of a sampler other than random crowd where the objective is good, which hides what "
            "matters elsewhere.",
        ]
    return TableContent(frame, columns, tuple(notes))


TABLE = TableKind(
    name="search_importances",
    section="search",
    position=20,
    title=lambda study: f"What goes along with {load_search(study).title()}",
    build=build_search_importances,
)
