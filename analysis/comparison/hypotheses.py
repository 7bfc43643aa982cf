"""What decides in the primary metric: batch size, learning rate, their ratio, the number of updates? Each held against the study.

The hypothesis that a quantity alone decides says that cells which agree in it are alike, whatever else differs between them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.comparison.pairs import compare_primary, find_primary, values_by_seed
from analysis.design.confounds import Confounds, agree
from analysis.records.frames import Study


def judge_hypotheses(study: Study, confounds: Confounds) -> pd.DataFrame:
    """One row per quantity that varies over the grid: quantity, pairs (of cells that agree in it), different, equivalent,
    difference [low, high] of the pair farthest apart, explained, verdict.

    verdict: refuted where such a pair differs; supported where all are equivalent; undecided; untested without any such pair.
    explained: the share of the spread between the means of cells that lies between groups of cells that agree in the quantity.
    """
    pairs = compare_primary(study)
    places = {cell_id: number for number, cell_id in enumerate(study.cells)}
    first, second = (pairs[f"cell_{side}"].map(places).to_numpy(dtype=int) for side in "ab")
    configs = [cell.config for cell in study.cells.values()]
    means = values_by_seed(study, find_primary(study).name).mean(axis=1).to_numpy(dtype=np.float64)
    rows = []
    for quantity in confounds.quantities:
        same = agree(configs, quantity)
        alike = pairs[same[first, second]]
        counts = alike["verdict"].value_counts()
        by_size = alike.reindex(alike["difference"].abs().sort_values(ascending=False).index)
        farthest = by_size.to_dict("records")[0] if alike["difference"].notna().any() else {}
        refuted, held = counts.get("different", 0) > 0, counts.get("equivalent", 0) == len(alike)
        verdict = "untested" if alike.empty else "refuted" if refuted else "supported" if held else "undecided"
        rows.append(
            {
                "quantity": quantity.title, "pairs": len(alike), "different": int(counts.get("different", 0)),
                "equivalent": int(counts.get("equivalent", 0)),
                **{name: farthest.get(name, np.nan) for name in ("difference", "low", "high")},
                "explained": _share_between(means, same), "verdict": verdict,
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=[
        "quantity", "pairs", "different", "equivalent", "difference", "low", "high", "explained", "verdict",
    ])  # fmt: skip


def _share_between(means: np.ndarray, same: np.ndarray) -> float:
    """1 - (squares within groups) / (all squares); NaN where a mean is missing or every group is one cell."""
    groups = {tuple(np.flatnonzero(row)) for row in same}
    total = float(((means - means.mean()) ** 2).sum())
    if len(groups) == len(means) or not total > 0:
        return float("nan")
    within = sum(float(((means[list(group)] - means[list(group)].mean()) ** 2).sum()) for group in groups)
    return 1 - within / total
