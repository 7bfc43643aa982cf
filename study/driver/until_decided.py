"""More seeds until the primary question is settled: which cells, which seeds, and when to stop (`--until-decided`).

A cell is open while its comparison with the leading cell, the one of the best mean, is undecided; the leader is open while any other
is. Open cells are trained on further seeds, the same ones, so that differences stay paired; settled ones get no more. The
comparisons are simultaneous over all pairs and all looks (analysis.statistics.spend), so that neither the choice of the leader nor
the number of looks makes a false verdict more likely than 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import pandas as pd

from analysis.comparison.best import rank_cells
from analysis.comparison.looks import order_seeds
from analysis.comparison.pairs import MOST_CELLS_IN_PAIRS, compare_primary
from analysis.records.frames import Study
from trainable.config import TrialConfig


@dataclass(frozen=True)
class Look:
    """What a look at the verdicts says: the trials to train next, none where it is over, and a line for the user."""

    configs: tuple[TrialConfig, ...]
    said: str


def look(study: Study, tried: Mapping[str, set[int]], num_slots: int) -> Look:
    """Judge what there is and choose the next trials; `tried` holds the seeds of every cell that were trained or begun."""
    assert study.info.stopping is not None
    most, pairs = study.info.stopping["most"], _asked(study)
    undecided = pairs[pairs["verdict"] == "undecided"]
    if pairs.empty:
        return Look((), "fewer than two cells have results: there is nothing to settle")
    seeds = f"after {_range(pairs['seeds'])} seeds"
    if undecided.empty:
        return Look((), f"settled {seeds}: every cell is different from the best one or equivalent to it")
    open_cells = list(dict.fromkeys(undecided.sort_values("more_seeds")[["cell_a", "cell_b"]].to_numpy().ravel()))
    reached = max(len(tried[cell]) for cell in open_cells)
    left = f"{len(undecided)} of {len(pairs)} comparisons with the best cell are open {seeds}"
    if all(len(tried[cell]) >= most for cell in open_cells):
        return Look((), f"{left}, and the {most} seeds that were allowed are spent")
    step = max(1, min(num_slots // len(open_cells), _fewest(undecided["more_seeds"]), most - reached))
    wanted = list(islice(order_seeds(study.info.seeds), min(reached + step, most)))
    found = {cell.cell_id: cell for cell in study.info.cells}
    configs = tuple(
        TrialConfig.from_dict({**found[cell].config, "seed": seed})
        for seed in wanted for cell in open_cells if seed not in tried[cell]
    )  # fmt: skip
    labels = ", ".join(found[cell].label for cell in open_cells[:4]) + (", ..." if len(open_cells) > 4 else "")
    return Look(configs, f"{left}: {len(configs)} more trials ({labels})")


def _asked(study: Study) -> pd.DataFrame:
    """The comparisons that have to be settled: those with the leading cell; cells of which no trial completed are left alone."""
    ranked, pairs = rank_cells(study), compare_primary(study)
    measured = set(ranked.loc[ranked["mean"].notna(), "cell_id"])
    pairs = pairs.loc[pairs["cell_a"].isin(measured) & pairs["cell_b"].isin(measured)]
    if len(study.cells) > MOST_CELLS_IN_PAIRS:
        return pairs
    leader = ranked["cell_id"].iloc[0]
    with_leader: pd.DataFrame = pairs[(pairs["cell_a"] == leader) | (pairs["cell_b"] == leader)]
    return with_leader


def _fewest(more_seeds: pd.Series[float]) -> int:
    known = more_seeds.dropna()
    return int(known.min()) if len(known) else 1


def _range(numbers: pd.Series[int]) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"
