"""Which cells differ, metric by metric, and by how much: the table `pairwise` and the verdict summary of a report.

Every pair of cells is compared on the seeds that both completed. Above `MOST_CELLS_IN_PAIRS` cells only against the first
cell of the study, which is fixed before any result is known: all pairs would be too many to correct for, or to read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.metrics import list_metrics
from analysis.records.frames import Study
from analysis.records.summary import summarize_trials
from analysis.results.result_table import Column, TableContent, TableKind

MOST_CELLS_IN_PAIRS = 20


def list_pairs(cell_ids: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of cells that are compared, in the order of the study."""
    if len(cell_ids) <= MOST_CELLS_IN_PAIRS:
        return list(itertools.combinations(cell_ids, 2))
    return [(cell_ids[0], other) for other in cell_ids[1:]]


def compare_cells(study: Study) -> pd.DataFrame:
    """One row per pair of cells and metric, as `run_paired_tests` finds them; differences are the first cell less the second."""
    trials = summarize_trials(study)
    pairs = list_pairs(list(study.cells))
    metrics = [m for m in list_metrics().values() if m.compared and trials[m.name].notna().any()]
    if not pairs or not metrics:
        return _empty_comparison()
    differences = np.concatenate([_differences(trials, metric.name, pairs) for metric in metrics])
    margin_of = {m.name: study.info.equivalence_margin if m.in_percent else np.nan for m in metrics}
    margins = np.repeat([margin_of[m.name] for m in metrics], len(pairs))
    tests = statistics.run_paired_tests(differences, margins)
    p_different = statistics.adjust_holm(tests.p_different)
    p_equivalent = statistics.adjust_holm(tests.p_equivalent)
    verdicts = statistics.decide(p_different, p_equivalent)
    more = statistics.count_more_seeds(tests, margins, len(differences))
    boot_low, boot_high = statistics.bootstrap_interval(differences)
    frame = pd.DataFrame(
        {
            "cell_a": [a for a, _ in pairs] * len(metrics), "cell_b": [b for _, b in pairs] * len(metrics),
            "metric": np.repeat([m.name for m in metrics], len(pairs)), "seeds": tests.num_seeds,
            "difference": tests.mean, "sd": tests.sd, "t_low": tests.low, "t_high": tests.high,
            "bootstrap_low": boot_low, "bootstrap_high": boot_high, "effect_size": tests.effect_size,
            "p": tests.p_different, "p_holm": p_different, "margin": margins,
            "p_equivalence": tests.p_equivalent, "p_equivalence_holm": p_equivalent, "verdict": verdicts,
            "more_seeds": np.where(verdicts == "undecided", more, np.nan),
            "reason": statistics.explain(tests, verdicts, p_different),
        }
    )  # fmt: skip
    for side in "ab":
        frame.insert(2, f"label_{side}", frame[f"cell_{side}"].map({c.cell_id: c.label for c in study.info.cells}))
    return frame


def build_pairwise(study: Study) -> TableContent:
    """The table `pairwise`."""
    frame = compare_cells(study)
    metrics = list_metrics()
    frame.insert(0, "title", [metrics[name].title for name in frame["metric"]])
    # Accuracies and losses stand in one column: as plain numbers, accuracies in points, each with its own digits.
    scale = np.where([metrics[name].in_percent for name in frame["metric"]], 100.0, 1.0)
    for name in ("difference", "sd", "t_low", "t_high", "bootstrap_low", "bootstrap_high"):
        frame[f"shown_{name}"] = frame[name] * scale
    frame["shown_bootstrap"] = frame["shown_difference"].where(frame["bootstrap_low"].notna())
    columns = (
        Column("title", "metric"), Column("label_a", "cell A"), Column("label_b", "cell B"),
        Column("seeds", "seeds", "count"), Column("verdict", "verdict"),
        Column("shown_difference", "A - B [95 %, t]", "number", low="shown_t_low", high="shown_t_high"),
        Column("shown_bootstrap", "A - B [95 %, bootstrap]", low="shown_bootstrap_low", high="shown_bootstrap_high",
               kind="number"),
        Column("effect_size", "effect size", "number"), Column("p_holm", "p (Holm)", "p_value"),
        Column("p_equivalence_holm", "p equivalence (Holm)", "p_value"),
        Column("more_seeds", "more seeds", "count"), Column("reason", "reason"),
    )  # fmt: skip
    points = f"{100 * study.info.equivalence_margin:g} points"
    notes = [
        "Accuracies in percentage points, losses in nats; paired by seed.",
        f"different: a paired t test rejects no difference; equivalent: two one-sided t tests put it within {points} "
        "(accuracies only); both at 5 % after Holm's correction over all rows. undecided: neither, which does not mean equal.",
        "Intervals are not corrected. The bootstrap interval needs five seeds, is too narrow below about ten, and decides "
        "nothing. Effect size: mean over standard deviation of the differences, Hedges' correction.",
        f"More seeds: a rough guess of how many would settle it with {statistics.POWER:.0%} probability, were mean and spread "
        f"as now; {statistics.MOST_SEEDS:,} stands for that many or more.",
    ]
    if len(study.cells) > MOST_CELLS_IN_PAIRS:
        notes.append(f"{len(study.cells)} cells: each is compared with the first one only.")
    return TableContent(frame, columns, tuple(notes))


def _differences(trials: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Pairs x seeds; NaN where one of the two trials has no value."""
    by_cell = trials.pivot(index="cell_id", columns="seed", values=metric)
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    return np.asarray(by_cell.reindex(first).to_numpy() - by_cell.reindex(second).to_numpy(), dtype=np.float64)


def _empty_comparison() -> pd.DataFrame:
    text = ("cell_a", "cell_b", "label_a", "label_b", "metric", "verdict", "reason")
    numbers = (
        "seeds", "difference", "sd", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "effect_size", "p", "p_holm",
        "margin", "p_equivalence", "p_equivalence_holm", "more_seeds",
    )  # fmt: skip
    return pd.DataFrame({**{n: pd.Series(dtype=object) for n in text}, **{n: pd.Series(dtype=float) for n in numbers}})


TABLE = TableKind(
    name="pairwise",
    section="comparison",
    position=20,
    title="Pairwise comparison of the cells",
    build=build_pairwise,
    wandb=True,
)
