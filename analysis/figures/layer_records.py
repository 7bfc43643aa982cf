"""Layer records as the figures need them: one trial's as a frame, or all trials' summed up by columnar queries.

A study of a thousand trials has twelve million layer rows. They are read once, in the columns that figures of all
trials need, and reduced by pyarrow to a row per cell, epoch and layer, per trial, epoch and group, and per trial and
step. Values that are NaN or infinite (a trial that was about to diverge) count as not measured. Knows nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.figures.selection import ShownCell, cell_of_trial
from analysis.study_folder import StudyFolder

_VALUES = ("gradient_mean_abs", "update_ratio", "angular_update")


@dataclass(frozen=True)
class LayerSummary:
    """Means of gradient_mean_abs, update_ratio and angular_update over the shown trials' layer records."""

    by_layer: pd.DataFrame  # cell, epoch, layer, group, kind + the three means, over trials and measured steps
    by_group: pd.DataFrame  # cell, trial, epoch, group + the three means, over layers and measured steps
    by_step: pd.DataFrame  # cell, trial, epoch, step + the three means, over layers
    layers: tuple[str, ...]  # names in the order of the network


def summarise_layers(folder: StudyFolder, cells: Sequence[ShownCell]) -> LayerSummary:
    """The layer records of the shown trials, reduced to what figures of all trials need."""
    names = ["trial_id", "epoch", "step", "layer", "group", "kind", *_VALUES]
    table = _finite(folder.read_records("layers", names).unify_dictionaries())
    trials = _dictionary(table, "trial_id")
    cell_of = cell_of_trial(cells)
    cell = np.array([cell_of.get(trial, -1) for trial in trials], dtype=np.int32)
    codes = _codes(table, "trial_id")
    columns = {"trial": codes, "cell": pc.take(pa.array(cell), codes) if len(trials) else codes}
    for name in ("epoch", "step"):
        columns[name] = table[name]
    for name in ("layer", "group", "kind"):
        columns[name] = _codes(table, name)
    columns |= {name: table[name] for name in _VALUES}
    coded = pa.table(columns)
    coded = coded.filter(pc.field("cell") >= 0)
    layers = _dictionary(table, "layer")
    decode = {
        "trial": trials,
        "layer": layers,
        "group": _dictionary(table, "group"),
        "kind": _dictionary(table, "kind"),
    }
    return LayerSummary(
        by_layer=_mean_by(coded, ["cell", "epoch", "layer", "group", "kind"], decode),
        by_group=_mean_by(coded, ["cell", "trial", "epoch", "group"], decode),
        by_step=_mean_by(coded, ["cell", "trial", "epoch", "step"], decode),
        layers=tuple(layers),
    )


def read_trial_layers(folder: StudyFolder, trial_id: str) -> pd.DataFrame:
    """All layer records of one trial."""
    names = [
        "epoch", "step", "layer", "group", "kind", "gradient_mean_abs", "gradient_max_abs", "weight_mean_abs",
        "weight_std", "displacement_mean_abs",
    ]  # fmt: skip
    table = folder.read_records("layers", names, pc.field("trial_id") == trial_id)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _finite(table: pa.Table) -> pa.Table:
    for name in _VALUES:
        values = table[name]
        cleaned = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
        table = table.set_column(table.schema.get_field_index(name), name, cleaned)
    return table


def _codes(table: pa.Table, name: str) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.indices for chunk in table[name].chunks], type=pa.int32())


def _dictionary(table: pa.Table, name: str) -> list[str]:
    chunks = table[name].chunks
    return [str(value) for value in chunks[0].dictionary.to_pylist()] if chunks else []


def _mean_by(table: pa.Table, keys: Sequence[str], decode: dict[str, list[str]]) -> pd.DataFrame:
    grouped = table.group_by(list(keys), use_threads=False).aggregate([(name, "mean") for name in _VALUES])
    frame: pd.DataFrame = grouped.to_pandas().rename(columns={f"{name}_mean": name for name in _VALUES})
    frame = frame.sort_values(list(keys), ignore_index=True)
    for name in keys:
        if name in decode:
            frame[name] = pd.Categorical.from_codes(
                frame[name].to_numpy(dtype=np.int32), categories=pd.Index(decode[name])
            )
    return frame[[*keys, *_VALUES]]
