"""Gradient flow and weight updates by group of layers: the tables gradient_ranges, gradient_health, weight_update_ranks.

Reads layers.parquet by column; a study of a thousand trials has twelve million rows, so everything is grouped, nothing
loops over rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.claims.published import find_layer_range, find_order
from analysis.records.frames import Study
from analysis.records.phases import KINDS, PUBLISHED_NUM_EPOCHS, PUBLISHED_PHASES, scale_phases
from analysis.results.cell_columns import add_factors, factor_columns, in_study_order
from analysis.results.result_table import TableColumn, TableContent, TableKind

VANISHING_BELOW = 1e-6
EXPLODING_ABOVE = 10.0


def measure_gradient_ranges(study: Study) -> pd.DataFrame:
    """Minimum, median and maximum of mean |g| over tensors, measured steps and seeds, of completed trials.

    One row per cell, phase (and the whole training) and group of layers (kind `all`), and per cell, phase and kind of layer
    (group `all`).
    """
    rows = _layer_rows(study, ["gradient_mean_abs"]).rename(columns={"gradient_mean_abs": "value"})
    parts = []
    for cell_epochs, cell_ids in _cells_by_epochs(study).items():
        of_cells = rows if len(cell_ids) == len(study.cells) else rows[rows["cell_id"].isin(cell_ids)]
        phases: dict[str, tuple[int, int] | None] = {"all": None, **scale_phases(cell_epochs)}
        for phase, epochs in phases.items():
            part = of_cells if epochs is None else of_cells[of_cells["epoch"].between(*epochs)]
            for by, other in (("group", "kind"), ("kind", "group")):
                found = _aggregate(part, ["cell_id", by], "value", ["min", "median", "max", "count"])
                first, last = epochs or (1, cell_epochs)
                parts.append(found.assign(**{other: "all"}, phase=phase, first_epoch=first, last_epoch=last))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return _ordered(study, frame.reindex(columns=[
        "cell_id", "phase", "first_epoch", "last_epoch", "group", "kind", "min", "median", "max", "count"
    ]))  # fmt: skip


def build_gradient_ranges(study: Study) -> TableContent:
    """The table `gradient_ranges`, with the published range beside each group."""
    frame = measure_gradient_ranges(study)
    published = [
        find_layer_range(study, "gradient_mean_abs", group, PUBLISHED_PHASES.get(phase))
        for group, phase in zip(frame["group"], frame["phase"], strict=True)
    ]
    frame["published_low"] = pd.Series([low for low, _ in published], dtype="float64")
    frame["published_high"] = pd.Series([high for _, high in published], dtype="float64")
    columns = (
        *factor_columns(study), TableColumn("phase", "phase"), TableColumn("first_epoch", "from epoch", "count"),
        TableColumn("last_epoch", "to epoch", "count"), TableColumn("group", "group"), TableColumn("kind", "kind"),
        TableColumn("min", "min", "scientific"), TableColumn("median", "median", "scientific"), TableColumn("max", "max", "scientific"),
        TableColumn("published_low", "published from", "scientific"), TableColumn("published_high", "published to", "scientific"),
    )  # fmt: skip
    notes = (
        "Mean |g| of each parameter tensor at each measured step, over tensors, steps and seeds.",
        *phase_notes(study),
    )
    return TableContent(add_factors(study, frame), columns, notes)


def build_gradient_health(study: Study) -> TableContent:
    """The table `gradient_health`: where and when gradients vanished or exploded, and the extremes of every cell."""
    names = ["gradient_mean_abs", "gradient_max_abs"]
    rows = _layer_rows(study, [*names, "angular_update"], ["layer", "step"], only_completed=False)
    rows = rows[~_before_norm(rows)]
    checks = {
        "vanishing": rows["gradient_mean_abs"] < VANISHING_BELOW,
        "exploding": rows["gradient_max_abs"] > EXPLODING_ABOVE,
        "not finite": ~np.isfinite(rows["gradient_max_abs"]),
    }
    parts = []
    for problem, found in checks.items():
        by_layer = rows[found].groupby(["cell_id", "layer"], observed=True)
        part = by_layer.agg(
            count=("epoch", "size"), first_epoch=("epoch", "min"), last_epoch=("epoch", "max"), trials=("trial_id", "nunique"),
            lowest=("gradient_mean_abs", "min"), highest=("gradient_max_abs", "max"),
        ).reset_index()  # fmt: skip
        parts.append(part.assign(problem=problem).astype({"cell_id": "str", "layer": "str"}))
    extremes = [_extreme(rows, names[0], "lowest"), _extreme(rows, names[1], "highest")]
    frame = pd.concat([*extremes, *parts], ignore_index=True)
    order = {problem: number for number, problem in enumerate(("lowest", "highest", *checks))}
    frame = frame.assign(_order=frame["problem"].map(order)).sort_values("_order", kind="stable").drop(columns="_order")
    frame = in_study_order(study, frame, [])
    columns = (
        *factor_columns(study), TableColumn("problem", "what"), TableColumn("layer", "layer"), TableColumn("count", "measurements", "count"),
        TableColumn("trials", "trials", "count"), TableColumn("first_epoch", "first epoch", "count"),
        TableColumn("last_epoch", "last epoch", "count"), TableColumn("lowest", "lowest mean |g|", "scientific"),
        TableColumn("highest", "highest max |g|", "scientific"),
    )  # fmt: skip
    unhealthy = any(len(part) for part in parts)
    found_words = "Gradients vanished or exploded." if unhealthy else "No gradient vanished or exploded."
    healthy = found_words if len(rows) else "The study has no layer records."
    notes = (
        f"{healthy} Vanishing: mean |g| of a tensor below {VANISHING_BELOW:g}; exploding: an element above "
        f"{EXPLODING_ABOVE:g}. All trials, also diverged ones. The rows lowest and highest say where each cell came nearest. Biases "
        "of convolutions before a norm, which takes them out again, are not looked at.",
    )
    return TableContent(add_factors(study, frame), columns, notes)


def measure_update_ranks(study: Study) -> pd.DataFrame:
    """Per cell and group: distance from the initial weights at the end, mean update ratio, their spreads and ranks.

    A group's value is the mean over its tensors (and, for the ratio, over all measured steps) of one trial, then the mean
    over seeds; rank 1 is the largest.
    """
    rows = _layer_rows(study, ["displacement_mean_abs", "update_ratio"], ["step"])
    keys = ["cell_id", "trial_id", "group"]
    trials = rows["trial_id"].cat.codes.to_numpy()
    last_step = np.zeros(len(rows["trial_id"].cat.categories), dtype=np.int64)
    np.maximum.at(last_step, trials, rows["step"].to_numpy())
    last = rows["step"].to_numpy() == last_step[trials]
    moved = _aggregate(rows[last], keys, "displacement_mean_abs", ["mean"]).rename(columns={"mean": "displacement"})
    ratio = _aggregate(rows, keys, "update_ratio", ["mean"]).rename(columns={"mean": "ratio"})
    grouped = moved.merge(ratio, on=keys, how="outer").groupby(["cell_id", "group"])
    frame = pd.DataFrame({"seeds": grouped.size()})
    for name in ("displacement", "ratio"):
        frame[f"{name}_mean"], frame[f"{name}_sd"] = grouped[name].mean(), grouped[name].std()
    frame = frame.reset_index()
    for name in ("displacement", "ratio"):
        ranks = frame.groupby("cell_id")[f"{name}_mean"].rank(ascending=False, method="min")
        frame[f"{name}_rank"] = ranks
    return _ordered(study, frame)


def build_weight_update_ranks(study: Study) -> TableContent:
    """The table `weight_update_ranks`, with the published rank beside."""
    frame = measure_update_ranks(study)
    order = find_order(study, "displacement_mean_abs")
    ranks = {group: float(number + 1) for number, group in enumerate(order)}
    frame["published_rank"] = frame["group"].map(ranks).astype("float64")
    columns = (
        *factor_columns(study), TableColumn("group", "group"), TableColumn("seeds", "seeds", "count"),
        TableColumn("displacement_mean", "mean |w - w0|", "scientific", spread="displacement_sd"),
        TableColumn("displacement_rank", "rank", "count"),
        TableColumn("ratio_mean", "mean update ratio", "scientific", spread="ratio_sd"),
        TableColumn("ratio_rank", "rank by ratio", "count"), TableColumn("published_rank", "published rank", "count"),
    )  # fmt: skip
    notes = (
        "mean |w - w0|: distance from the initial weights at the last measured step. Update ratio: length of one step's change "
        "over the length of the weights, mean over all measured steps. Both are means over the tensors of a group; ± is the "
        "standard deviation over seeds."
        + (" The publication ranks five groups, without the stem." if frame["published_rank"].notna().any() else ""),
    )
    return TableContent(add_factors(study, frame), columns, notes)


def phase_notes(study: Study) -> list[str]:
    """How the phases were scaled, where a cell does not have the published number of epochs."""
    notes = []
    for num_epochs in _cells_by_epochs(study):
        if num_epochs != PUBLISHED_NUM_EPOCHS:
            scaled = ", ".join(f"{name} {first}-{last}" for name, (first, last) in scale_phases(num_epochs).items())
            notes.append(f"Phases are scaled from {PUBLISHED_NUM_EPOCHS} to {num_epochs} epochs: {scaled}.")
    return notes


def _layer_rows(
    study: Study, names: Sequence[str], more: Sequence[str] = (), only_completed: bool = True
) -> pd.DataFrame:
    """Columns of layers with cell_id, of the study's trials; names are categories, rows of unmeasured values are kept."""
    rows = study.read_layers(["trial_id", "epoch", "group", "kind", *more, *names])
    known = study.trials.set_index("trial_id")["cell_id"]
    if only_completed:
        known = known[study.completed_ids]
    trial_ids = rows["trial_id"].cat.categories
    cells = pd.Categorical(known.reindex(trial_ids), categories=list(study.cells))
    codes = cells.codes[rows["trial_id"].cat.codes]
    rows["cell_id"] = pd.Categorical.from_codes(codes, categories=pd.Index(list(study.cells)))
    return rows if (codes >= 0).all() else rows[codes >= 0]


def _aggregate(rows: pd.DataFrame, keys: Sequence[str], value: str, functions: Any) -> pd.DataFrame:
    """`rows` grouped by categories, as one whole number per row: several times faster than pandas does it by itself."""
    categories = [rows[key].cat.categories for key in keys]
    codes = np.zeros(len(rows), dtype=np.int32)
    for key, names in zip(keys, categories, strict=True):
        codes = codes * len(names) + rows[key].cat.codes.to_numpy()
    found: pd.DataFrame = rows[value].groupby(codes).agg(functions)
    positions = np.unravel_index(found.index.to_numpy(dtype=np.int64), [max(len(names), 1) for names in categories])
    for number, (key, names) in enumerate(zip(keys, categories, strict=True)):
        found.insert(number, key, names.to_numpy(dtype=object)[positions[number]])
    return found.reset_index(drop=True)


def _before_norm(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows are of the bias of a convolution before a norm, whose weight has an angular update: its gradient is 0 but for rounding."""
    layers = list(rows["layer"].cat.categories)
    known = {name: number for number, name in enumerate(layers)}
    weights = np.array(
        [known.get(f"{name.removesuffix('bias')}weight", -1) if name.endswith("bias") else -1 for name in layers]
    )
    codes, cells = (
        rows["layer"].cat.codes.to_numpy(),
        rows["cell_id"].cat.codes.to_numpy().astype(np.int64) * len(layers),
    )
    normalised = np.zeros(len(rows["cell_id"].cat.categories) * len(layers), dtype=bool)
    normalised[(cells + codes)[np.isfinite(rows["angular_update"].to_numpy())]] = True
    weight = weights[codes] if layers else codes
    found: npt.NDArray[np.bool_] = (weight >= 0) & normalised[cells + weight] if len(rows) else np.zeros(0, dtype=bool)
    return found


def _extreme(rows: pd.DataFrame, name: str, what: str) -> pd.DataFrame:
    """The row of each cell where `name` is lowest or highest."""
    finite: pd.DataFrame = rows[np.isfinite(rows[name])]
    grouped = finite.groupby("cell_id", observed=True)[name]
    found = finite.loc[grouped.idxmin() if what == "lowest" else grouped.idxmax()]
    frame: pd.DataFrame = found[["cell_id", "layer"]].astype("str").assign(problem=what, count=1, trials=1)
    frame["first_epoch"] = frame["last_epoch"] = found["epoch"]
    frame["lowest"] = found["gradient_mean_abs"] if what == "lowest" else np.nan
    frame["highest"] = found["gradient_max_abs"] if what == "highest" else np.nan
    return frame


def _cells_by_epochs(study: Study) -> dict[int, list[str]]:
    """Cells by their number of epochs, which decides their phases."""
    found: dict[int, list[str]] = {}
    for cell in study.info.cells:
        found.setdefault(int(cell.config["epochs"]), []).append(cell.cell_id)
    return found


def _ordered(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """By cell, then phase, then group, then kind, each in its natural order."""
    keys = {"phase": ("all", *PUBLISHED_PHASES), "group": ("all", *study.groups), "kind": ("all", *KINDS)}
    position = {f"_{k}": frame[k].map({v: n for n, v in enumerate(order)}) for k, order in keys.items() if k in frame}
    ordered = in_study_order(study, frame.assign(**position), list(position))
    return ordered.drop(columns=list(position))


RANGES = TableKind(
    name="gradient_ranges",
    section="dynamics",
    position=10,
    title="Gradient magnitudes by group, kind and phase",
    build=build_gradient_ranges,
    wandb=True,
)

HEALTH = TableKind(
    name="gradient_health",
    section="dynamics",
    position=20,
    title="Vanishing and exploding gradients",
    build=build_gradient_health,
    wandb=True,
)

RANKS = TableKind(
    name="weight_update_ranks",
    section="dynamics",
    position=30,
    title="Groups ranked by their weight updates",
    build=build_weight_update_ranks,
    wandb=True,
)
