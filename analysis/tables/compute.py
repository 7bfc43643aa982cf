"""What training takes: FLOPs of every layer under each convention, and per cell FLOPs, FLOP/s and memory of a trial.

The tables `flops` and `compute`. A number of FLOPs is only given with its convention; a trial's own FLOPs are forward and
backward at two per multiply-accumulate.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.claims.measures import model_quantity
from analysis.claims.published import find_model_value
from analysis.records.factors import network_labels
from analysis.records.frames import Study, shown_convention
from analysis.records.summary import summarize_trials, timing_note
from analysis.results.cell_columns import add_factors, factor_columns
from analysis.results.result_table import TableColumn, TableContent, TableKind
from trainable.config import model_name

CONVENTIONS = {
    "flops_worksheet": "FLOPs, worksheet",
    "flops_fvcore": "FLOPs, fvcore",
    "flops_two_per_mac": "FLOPs, 2 per MAC",
    "flops_two_per_mac_training": "FLOPs, 2 per MAC, forward + backward",
}
TOTAL = "total"


def measure_flops(study: Study) -> pd.DataFrame:
    """Every layer of every model in order of execution, then its total; shares are of the worksheet's FLOPs."""
    parts = []
    for name, layers in study.model.groupby("model", sort=False):
        numbers = ["num_parameters", "macs", *CONVENTIONS]
        total = (
            layers[numbers]
            .sum(min_count=1)
            .to_frame()
            .T.assign(width=layers["width"].iloc[0], model=name, layer=TOTAL, group="", kind="")
        )
        part = pd.concat([layers, total], ignore_index=True)
        convention = shown_convention(layers)
        part["share"] = (part[convention] / layers[convention].sum()).astype("float64")
        parts.append(part)
    if not parts:
        return study.model.assign(share=pd.Series(dtype="float64"))
    return pd.concat(parts, ignore_index=True)


def build_flops(study: Study) -> TableContent:
    """The table `flops`, with the published total and layers beside."""
    frame = measure_flops(study)
    frame["published"] = pd.Series(
        [
            find_model_value(study, "flops_worksheet", int(width), None if layer == TOTAL else layer)
            if model == f"width {width}"  # the published network
            else math.nan
            for width, model, layer in zip(frame["width"], frame["model"], frame["layer"], strict=True)
        ],
        dtype="float64",
    )
    columns = (
        TableColumn("layer", "layer"), TableColumn("kind", "kind"), TableColumn("output_shape", "output"),
        TableColumn("num_parameters", "parameters", "count"), TableColumn("macs", "MACs", "count"),
        *(TableColumn(name, title, "count") for name, title in CONVENTIONS.items()),
        TableColumn("share", "share", "percent"), TableColumn("published", "published", "count"),
    )  # fmt: skip
    if frame["model"].nunique() > 1:
        frame["network"] = frame["model"].map(network_labels(frame["model"].unique()))
        published = frame["model"].str.startswith("width ").all()
        columns = (TableColumn("width", "width", "count") if published else TableColumn("network", "network"), *columns)
    notes = (
        "Of one image. worksheet: 1 per multiply-accumulate, 2 per batch-norm element and pooled output, 1 per bias. fvcore: "
        "that tool's own count in evaluation mode. 2 per MAC: torch's FlopCounterMode. The worksheet's convention is defined for "
        "residual networks like the published one; shares are of its FLOPs, of other networks of those at 2 per MAC.",
    )
    return TableContent(frame, columns, notes)


def measure_compute(study: Study) -> pd.DataFrame:
    """One row per cell: size of its model, FLOPs per image, epoch and trial, achieved FLOP/s over seeds, peak memory."""
    trials = summarize_trials(study)
    peak = study.epochs.groupby("trial_id")["peak_memory_bytes"].max()
    rows = []
    for cell in study.info.cells:
        layers = study.model[study.model["model"] == model_name(cell.config)]
        own = trials[trials["cell_id"] == cell.cell_id]
        images = own["steps_per_epoch"].mean() * cell.config["batch_size"]
        row: dict[str, object] = {"cell_id": cell.cell_id}
        if len(layers):
            per_image = float(layers["flops_two_per_mac_training"].sum())
            speeds = per_image * images * cell.config["epochs"] / own["train_time_s"].dropna()
            row |= {
                "num_parameters": model_quantity(layers, "num_parameters"),
                "memory_mb": model_quantity(layers, "memory_mb"),
                "flops_per_parameter": model_quantity(layers, "flops_per_parameter"),
                "flops_per_image": per_image, "flops_per_epoch": per_image * images,
                "flops_per_trial": per_image * images * cell.config["epochs"],
                "flops_per_s_mean": speeds.mean(), "flops_per_s_sd": speeds.std(),
            }  # fmt: skip
        row["peak_memory_mb"] = peak.reindex(own["trial_id"]).max() / 2**20
        rows.append(row)
    names = (
        "cell_id", "num_parameters", "memory_mb", "flops_per_parameter", "flops_per_image", "flops_per_epoch",
        "flops_per_trial", "flops_per_s_mean", "flops_per_s_sd", "peak_memory_mb",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=list(names)).replace({None: np.nan})


def build_compute(study: Study) -> TableContent:
    """The table `compute`."""
    frame = measure_compute(study)
    columns = (
        *factor_columns(study), TableColumn("num_parameters", "parameters", "count"),
        TableColumn("memory_mb", "parameters, MB", "number"), TableColumn("flops_per_parameter", "FLOPs per parameter", "number"),
        TableColumn("flops_per_image", "FLOPs per image", "count"), TableColumn("flops_per_epoch", "FLOPs per epoch", "flops"),
        TableColumn("flops_per_trial", "FLOPs per trial", "flops"),
        TableColumn("flops_per_s_mean", "FLOP/s", "flops", spread="flops_per_s_sd"),
        TableColumn("peak_memory_mb", "peak memory, MB", "count"),
    )  # fmt: skip
    notes = (
        "FLOPs of training: forward and backward at 2 per multiply-accumulate, of convolutions, linear layers and "
        "attention; FLOPs per parameter: forward, worksheet's convention. FLOP/s: over the training time, without evaluation.",
        timing_note(study),
    )
    frame["peak_memory_mb"] = frame["peak_memory_mb"].round()
    return TableContent(add_factors(study, frame), columns, notes)


FLOPS = TableKind(name="flops", section="flops", position=10, title="FLOPs by layer", build=build_flops, wandb=True)

COMPUTE = TableKind(
    name="compute", section="flops", position=20, title="What a trial takes", build=build_compute, wandb=True
)
