"""What it costs to reach a test accuracy: in epochs, steps, FLOPs and seconds. The tables `costs` and `cost_flips`.

A trial reaches an accuracy at its first epoch with at least that test accuracy. A cell has a cost only if all its completed
seeds reach it: the mean over those that did would flatter it. Which cell is cheaper can depend on the axis; such
conclusions are listed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import statistics
from analysis.comparison.pairs import list_pairs
from analysis.records.frames import Study
from analysis.records.summary import timed_trials, timing_note
from analysis.results.cell_columns import add_factors, factor_columns, in_study_order
from analysis.results.result_table import TableColumn, TableContent, TableKind
from trainable.config import model_name

AXES: Mapping[str, str] = {"epochs": "epochs", "steps": "steps", "flops": "FLOPs", "seconds": "seconds"}
ACCURACIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.93, 0.94, 0.95)


def measure_trial_costs(study: Study) -> pd.DataFrame:
    """One row per completed trial and accuracy that any of them reaches; the costs are NaN where the trial does not."""
    epochs = _cumulative(study)
    accuracies = [a for a in ACCURACIES if (epochs["test_accuracy"] >= a).any()]
    own = study.trials.loc[study.trials["trial_id"].isin(study.completed_ids), ["cell_id", "trial_id", "seed"]]
    parts = []
    for accuracy in accuracies:
        reached = epochs[epochs["test_accuracy"] >= accuracy].groupby("trial_id", sort=False).head(1)
        part = own.merge(reached[["trial_id", *AXES]], on="trial_id", how="left")
        parts.append(part.assign(accuracy=accuracy))
    if not parts:
        return own.assign(**dict.fromkeys((*AXES, "accuracy"), np.nan)).iloc[:0]
    return pd.concat(parts, ignore_index=True)


def measure_costs(study: Study) -> pd.DataFrame:
    """One row per accuracy and cell: seeds, how many reached it, and per axis the mean cost with its 95 % interval."""
    grouped = measure_trial_costs(study).groupby(["accuracy", "cell_id"])
    frame = pd.DataFrame({"seeds": grouped.size(), "reached": grouped["epochs"].count()})
    for axis in AXES:
        known = grouped[axis].count() == frame["seeds"]
        intervals = [statistics.mean_interval(values.to_numpy()) for _, values in grouped[axis]]
        for number, suffix in enumerate(("mean", "low", "high")):
            values = pd.Series([interval[number] for interval in intervals], index=frame.index, dtype="float64")
            frame[f"{axis}_{suffix}"] = values.where(known)
    return in_study_order(study, frame.reset_index(), ["accuracy"])


def compare_axes(study: Study) -> pd.DataFrame:
    """One row per accuracy, pair of cells that both reach it and two axes: which cell is cheaper on each.

    `flips` says that it is not the same cell, `supported` that the 95 % t interval of the difference, paired by seed, excludes
    0 on both axes; the interval of differences that are all the same is their value.
    """
    trials = measure_trial_costs(study)
    rows = []
    for accuracy, at_accuracy in trials.groupby("accuracy"):
        means, tests = {}, {}
        pairs = list_pairs(list(study.cells))
        for axis in AXES:
            by_cell = at_accuracy.pivot(index="cell_id", columns="seed", values=axis).reindex(list(study.cells))
            missing = at_accuracy.assign(missing=at_accuracy[axis].isna()).groupby("cell_id")["missing"].any()
            by_cell[missing.reindex(by_cell.index, fill_value=True).to_numpy()] = np.nan
            first, second = (by_cell.reindex([pair[side] for pair in pairs]).to_numpy() for side in (0, 1))
            tests[axis] = statistics.compare_paired(first - second, 1)
            means[axis] = tests[axis].mean
        for number, (a, b) in enumerate(pairs):
            for one, other in itertools.combinations(AXES, 2):
                product = means[one][number] * means[other][number]
                if np.isnan(product):
                    continue
                cheaper = (a, b) if means[one][number] < 0 else (b, a)
                both = all(_excludes_zero(tests[axis], number) for axis in (one, other))
                seeds = int(tests[one].num_seeds[number])
                rows.append((accuracy, one, cheaper[0], other, cheaper[1], seeds, both, product < 0))
    names = ("accuracy", "axis_a", "cell_a", "axis_b", "cell_b", "seeds", "supported", "flips")
    return pd.DataFrame(rows, columns=list(names)).astype({"flips": bool})


def _excludes_zero(tests: statistics.Comparisons, number: int) -> bool:
    """Whether the interval of a comparison excludes 0; of several seeds without spread it is their common difference."""
    if tests.num_seeds[number] > 1 and np.isnan(tests.low[number]):
        return bool(tests.mean[number] != 0)
    return bool(tests.low[number] * tests.high[number] > 0)


def build_costs(study: Study) -> TableContent:
    """The table `costs`."""
    frame = measure_costs(study)
    columns = [*factor_columns(study), TableColumn("accuracy", "test accuracy", "accuracy"), TableColumn("seeds", "seeds", "count"),
               TableColumn("reached", "reached it", "count")]  # fmt: skip
    for axis, title in AXES.items():
        kind = "flops" if axis == "flops" else "seconds" if axis == "seconds" else "count"
        header = title if axis != "seconds" else "time"
        columns.append(TableColumn(f"{axis}_mean", header, kind, low=f"{axis}_low", high=f"{axis}_high"))  # type: ignore[arg-type]
    notes = (
        "Cost of the first epoch with at least this test accuracy, mean over seeds [95 % t interval]; whole epochs, so a "
        "spread of 0 is possible. None where a seed did not reach it. FLOPs: forward and backward, 2 per multiply-accumulate.",
        timing_note(study),
    )
    return TableContent(add_factors(study, frame), tuple(columns), notes)


def build_cost_flips(study: Study) -> TableContent:
    """The table `cost_flips`."""
    compared = compare_axes(study)
    frame = compared[compared["flips"]].drop(columns="flips").reset_index(drop=True)
    labels = {cell.cell_id: cell.label for cell in study.info.cells}
    for side in "ab":
        frame[f"label_{side}"] = frame[f"cell_{side}"].map(labels).astype("object")
        frame[f"axis_title_{side}"] = frame[f"axis_{side}"].map(dict(AXES)).astype("object")
    columns = (
        TableColumn("accuracy", "test accuracy", "accuracy"), TableColumn("label_a", "cheaper"), TableColumn("axis_title_a", "in"),
        TableColumn("label_b", "but cheaper"), TableColumn("axis_title_b", "in "), TableColumn("seeds", "seeds", "count"),
        TableColumn("supported", "supported on both axes", "flag"),
    )  # fmt: skip
    notes = (
        "Pairs of cells whose order changes with the axis that cost is measured on. Supported: the 95 % t interval of the "
        "difference, paired by seed, excludes 0 on both axes; where it is the same for all of several seeds, that it is not 0. "
        "Intervals are not corrected for the number of comparisons: of many, a few exclude 0 by chance.",
        *(("No conclusion flips with the axis.",) if frame.empty and len(compared) else ()),
        *(
            ("Nothing to compare: no two cells reach the same accuracy with seeds in common.",)
            if compared.empty
            else ()
        ),
    )
    return TableContent(frame, columns, notes)


def _cumulative(study: Study) -> pd.DataFrame:
    """Epoch records of completed trials with what each trial had spent after each epoch; seconds only where they count."""
    names = {cell.cell_id: model_name(cell.config) for cell in study.info.cells}
    trials = study.trials[["trial_id", "config.batch_size"]].assign(model=study.trials["cell_id"].map(names))
    epochs = study.epochs[study.epochs["trial_id"].isin(study.completed_ids)].merge(trials, on="trial_id")
    flops = study.model.groupby("model")["flops_two_per_mac_training"].sum()
    seconds = epochs.groupby("trial_id")["train_time_s"].cumsum()
    return epochs.assign(
        epochs=epochs["epoch"].astype("float64"),
        steps=epochs["step"].astype("float64"),
        flops=epochs["model"].map(flops) * epochs["config.batch_size"] * epochs["step"],
        seconds=seconds.where(epochs["trial_id"].isin(timed_trials(study))),
    )


COSTS = TableKind(
    name="costs", section="comparison", position=40, title="Cost to reach a test accuracy", build=build_costs
)

FLIPS = TableKind(
    name="cost_flips",
    section="comparison",
    position=50,
    title="Conclusions that flip with the axis of cost",
    build=build_cost_flips,
)
