"""Layer records as the figures need them: one trial's as a frame, or all trials' summed up column by column.

A study of a thousand trials has twelve million layer rows. They are reduced to a row per cell, epoch and layer, per trial,
epoch and group, and per trial and step, by counting into bins, one measured column at a time. Values that are NaN or
infinite (a trial that was about to diverge) count as not measured. Knows nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.drawing.selection import ShownCell, cell_of_trial, shown_cells
from analysis.records.frames import Study

VALUES = ("gradient_mean_abs", "update_ratio", "angular_update")
TRIAL_COLUMNS = (
    "trial_id", "epoch", "step", "layer", "group", "kind", "gradient_mean_abs", "gradient_max_abs", "weight_mean_abs", "weight_std",
    "displacement_mean_abs",
)  # fmt: skip


@dataclass(frozen=True)
class LayerSummary:
    """Means of gradient_mean_abs, update_ratio and angular_update over the shown trials' layer records."""

    by_layer: pd.DataFrame  # cell, epoch, layer, group, kind + the three means, over trials and measured steps
    by_group: pd.DataFrame  # cell, trial, epoch, group + the three means, over layers and measured steps
    by_step: pd.DataFrame  # cell, trial, step + the three means, over layers
    layers: tuple[str, ...]  # names in the order of the network


def load_layer_summary(study: Study) -> LayerSummary:
    """The layer records of the trials in figures that compare cells, summed up once."""
    return study.derive(_summarise_shown)


def summarise_layers(study: Study, cells: Sequence[ShownCell]) -> LayerSummary:
    """The layer records of the shown trials, reduced to what figures of all trials need."""
    keys = study.read_layers(["trial_id", "epoch", "step", "layer", "group", "kind"])
    trials, layers, groups, kinds = (keys[name].cat for name in ("trial_id", "layer", "group", "kind"))
    shown_cell = cell_of_trial(cells)
    cell_of = np.array([shown_cell.get(trial, -1) for trial in trials.categories], dtype=np.int32)
    trial = trials.codes.to_numpy().astype(np.int32)
    shown = cell_of[trial] >= 0 if len(trial) else np.zeros(0, dtype=bool)
    trial = trial[shown]
    codes = {
        "cell": cell_of[trial] if len(trial) else trial, "trial": trial, "epoch": keys["epoch"].to_numpy()[shown],
        "layer": layers.codes.to_numpy()[shown], "group": groups.codes.to_numpy()[shown],
    }  # fmt: skip
    codes["step"], steps = pd.factorize(keys["step"].to_numpy()[shown], sort=True)
    group_of = np.zeros(len(layers.categories), dtype=np.int32)
    group_of[codes["layer"]] = codes["group"]
    kind_of = np.zeros(len(layers.categories), dtype=np.int32)
    kind_of[codes["layer"]] = kinds.codes.to_numpy()[shown]
    bins = [
        _Bins(codes, names) for names in (("cell", "epoch", "layer"), ("trial", "epoch", "group"), ("trial", "step"))
    ]
    del keys, codes, trial
    for name in VALUES:
        values = study.read_layers([name])[name].to_numpy()[shown]
        for one in bins:
            one.add_mean(name, values)
    by_layer, by_group, by_step = (one.to_frame() for one in bins)
    by_layer["group"] = _named(group_of[by_layer["layer"]], groups.categories)
    by_layer["kind"] = _named(kind_of[by_layer["layer"]], kinds.categories)
    by_layer["layer"] = _named(by_layer["layer"].to_numpy(), layers.categories)
    by_group["group"] = _named(by_group["group"].to_numpy(), groups.categories)
    by_step["step"] = np.asarray(steps)[by_step["step"]]
    for frame in (by_group, by_step):
        frame["cell"] = cell_of[frame["trial"]] if len(frame) else frame["trial"]
    return LayerSummary(by_layer, by_group, by_step, tuple(map(str, layers.categories)))


def load_trial_layers(study: Study, cell: ShownCell) -> pd.DataFrame:
    """The layer records of the trial that stands for a cell, read once for all its pictures."""
    kept = study.derive(_kept_trials)
    if cell.representative not in kept:
        kept[cell.representative] = read_trial_layers(study, cell.representative)
    return kept[cell.representative]


def read_trial_layers(study: Study, trial_id: str) -> pd.DataFrame:
    """The layer records of one trial at the steps of its cadence."""
    return study.read_layers(TRIAL_COLUMNS, [trial_id])


def load_last_steps(study: Study, cell: ShownCell) -> pd.DataFrame:
    """The layer records of the trial that stands for a cell, at the last step of each epoch."""
    return study.read_last_steps(TRIAL_COLUMNS, cell.representative)


def _summarise_shown(study: Study) -> LayerSummary:
    return summarise_layers(study, shown_cells(study))


def _kept_trials(study: Study) -> dict[str, pd.DataFrame]:
    return {}


class _Bins:
    """Rows sorted into bins by several whole numbers, and the mean of measured values in each bin."""

    def __init__(self, codes: Mapping[str, npt.NDArray[np.integer]], names: Sequence[str]) -> None:
        self._names = names
        self._sizes = [int(codes[name].max(initial=0)) + 1 for name in names]
        self._bin = np.zeros(len(codes[names[0]]), dtype=np.int64)
        for name, size in zip(names, self._sizes, strict=True):
            self._bin = self._bin * size + codes[name]
        self._used = np.flatnonzero(np.bincount(self._bin))
        self._means: dict[str, npt.NDArray[np.float64]] = {}

    def add_mean(self, name: str, values: npt.NDArray[np.floating]) -> None:
        """The mean of the finite `values` of each bin, NaN where there is none."""
        finite = np.isfinite(values)
        length = int(np.prod(self._sizes))
        sums = np.bincount(self._bin, weights=np.where(finite, values, 0), minlength=length)[self._used]
        counts = np.bincount(self._bin[finite], minlength=length)[self._used]
        with np.errstate(invalid="ignore"):
            self._means[name] = sums / counts

    def to_frame(self) -> pd.DataFrame:
        """A row per bin that has rows, in ascending order of its numbers, with the numbers and the means."""
        columns: dict[str, npt.NDArray[np.int64]] = {}
        rest = self._used
        for name, size in zip(reversed(self._names), reversed(self._sizes), strict=True):
            rest, columns[name] = np.divmod(rest, size)
        return pd.DataFrame({**{name: columns[name] for name in self._names}, **self._means})


def _named(codes: npt.NDArray[np.integer], names: pd.Index[str]) -> pd.Categorical[str]:
    return pd.Categorical.from_codes(codes, categories=names)
