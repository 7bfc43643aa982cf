"""The figures of a search, in reading order, and what a reader is told about each."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.drawing.declaration import FigurePlan
from analysis.figures.search import (
    contour,
    curves,
    history,
    importances,
    parallel,
    pareto,
    slices,
)
from analysis.search.history import Search


def plan_search_figures(search: Search) -> Iterator[FigurePlan]:
    """The figures of the report's section about the search."""
    yield FigurePlan(
        "search_history", "search", "Optimisation history",
        "Every trial in the order of the search; hollow marks ended early and stand at the last value that they reported.",
        lambda: history.draw_search_history(history.build_search_history(search)),
    )  # fmt: skip
    if len(search.objective_columns) > 1:
        yield FigurePlan(
            "search_pareto", "search", "Pareto front",
            "Completed trials; on the front are those that no other one beats in one objective without losing in the other.",
            lambda: pareto.draw_search_pareto(pareto.build_search_pareto(search)),
        )  # fmt: skip
    yield FigurePlan(
        "search_importances", "search", "Importances",
        "fANOVA: the share of a random forest's variance that a quantity explains by itself. Thin lines: 90 % over resampled "
        "trials, widened to the end of the bar where they miss it; strokes across: what it reaches by chance, with the "
        "objective shuffled. Associations among the trials of one search, not effects.",
        lambda: importances.draw_search_importances(importances.build_search_importances(search)),
    )  # fmt: skip
    yield FigurePlan(
        "search_contour", "search", "Batch size and learning rate",
        "Dots are trials; the surface runs straight between the completed ones and ends with them. Trials that differ in other "
        "fields lie on the same map, so neighbours may disagree.",
        lambda: contour.draw_search_contour(contour.build_search_contour(search)),
    )  # fmt: skip
    yield FigurePlan(
        "search_slices", "search", "Slices", "Each field by itself; hollow marks ended early, at their last value.",
        lambda: slices.draw_search_slices(slices.build_search_slices(search)),
    )  # fmt: skip
    yield FigurePlan(
        "search_parallel", "search", "Parallel coordinates",
        "A line per completed trial; bright lines are the better ones.",
        lambda: parallel.draw_search_parallel(parallel.build_search_parallel(search)),
    )  # fmt: skip
    yield FigurePlan(
        "search_curves", "search", "Values by epoch",
        f"What the pruner saw. {_describe_schedules(search)}",
        lambda: curves.draw_search_curves(curves.build_search_curves(search)),
    )  # fmt: skip


def _describe_schedules(search: Search) -> str:
    """Whether values at the same epoch can be compared."""
    differing = [name.replace("_", " ") for name in ("epochs", "warmup_epochs") if name in search.description.space]
    if not differing:
        return "All trials run the same schedule, so values at the same epoch can be compared."
    return (
        f"Trials differ in {' and '.join(differing)}, so values at the same early epoch are not quite comparable: one that "
        "warms up longer, or has more epochs, starts later and is pruned sooner than it deserves."
    )
