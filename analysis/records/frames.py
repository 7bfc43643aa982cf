"""The records of a study as pandas DataFrames, read when asked for and kept.

Checks that the records fit together; a study whose files contradict each other raises StudyFolderError. Knows nothing of
what the numbers mean (summary.py) or how they are shown (tables.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.records.derivable import Derivable
from analysis.records.layer_file import find_cadence, find_last_steps, read_layers
from analysis.records.phases import merge_orders
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.records.study_json import Cell, StudyInfo
from trainable.errors import first_line
from trainable.records.columns import RESERVED

FINISHED = "completed"
SEARCHED = "search"  # the role of the trials that a search tries
BRANCH = "branch"  # the role of branches of other trials
_LAYER_KEYS = ("trial_id", "epoch", "layer", "group", "kind")
_MOMENT = ("trial_id", "epoch", "step")


@dataclass(frozen=True)
class Study(Derivable):
    """A study: `info` is study.json, and each kind of record is a DataFrame with the columns of trainable/records/columns.py.

    `trials` has the label of the cell beside its id, one row per cell and seed; trials of cells that the study does not
    have are left out, and so are those of a search (`search_trials`), which were never tested, and branches. `layers` holds every
    measured tensor at every measured step, of all trials, and may be large: `read_layers` reads only some columns, and only
    the steps that summaries over an epoch are made of.
    """

    folder: StudyFolder
    info: StudyInfo
    claims_file: Path | None = None

    @cached_property
    def trials(self) -> pd.DataFrame:
        frame = self._all_trials[~self._all_trials["role"].isin([SEARCHED, BRANCH])]
        frame = frame.drop(columns=[name for name in frame if name in RESERVED["trials"]])
        labels = {cell.cell_id: cell.label for cell in self.info.cells}
        frame.insert(2, "label", frame["cell_id"].map(labels))
        return _one_per_seed(frame[frame["label"].notna()], self.info)

    @cached_property
    def search_trials(self) -> pd.DataFrame:
        """The trials that a search tried, scored on held-out training images; in no table but those of the search."""
        return self._all_trials[self._all_trials["role"] == SEARCHED].reset_index(drop=True)

    @cached_property
    def branches(self) -> pd.DataFrame:
        """The trials that go on from others (`parent_id`) with another batch size; in no table but those of branches."""
        return self._all_trials[self._all_trials["role"] == BRANCH].reset_index(drop=True)

    @cached_property
    def branch_epochs(self) -> pd.DataFrame:
        """The epochs of `branches`, by trial and epoch."""
        return self._of_trials("epochs", self.branches).sort_values(["trial_id", "epoch"], ignore_index=True)

    @cached_property
    def search_epochs(self) -> pd.DataFrame:
        """The epochs of `search_trials`, by trial and epoch."""
        return self._of_trials("epochs", self.search_trials).sort_values(["trial_id", "epoch"], ignore_index=True)

    @cached_property
    def search_steps(self) -> pd.DataFrame:
        """The steps of `search_trials`."""
        return self._of_trials("steps", self.search_trials)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        frame = self._of_trials("epochs", self.trials).sort_values(["trial_id", "epoch"], ignore_index=True)
        path = self.folder.records("epochs")
        if frame.duplicated(["trial_id", "epoch"]).any():
            row = frame[frame.duplicated(["trial_id", "epoch"])].iloc[0]
            raise StudyFolderError(f"{path}: trial {row['trial_id']} has epoch {row['epoch']} more than once")
        completed = self.trials[self.trials["status"] == FINISHED].set_index("trial_id")
        found = frame.groupby("trial_id").size().reindex(completed.index, fill_value=0)
        if len(short := found[found < completed["epochs_completed"]]):
            trial_id = short.index[0]
            raise StudyFolderError(
                f"{path}: trial {trial_id} completed {completed.loc[trial_id, 'epochs_completed']} epochs and has "
                f"records of {short.iloc[0]}"
            )
        return frame

    @cached_property
    def steps(self) -> pd.DataFrame:
        return self._of_trials("steps", self.trials).sort_values(["trial_id", "step"], ignore_index=True)

    @cached_property
    def layers(self) -> pd.DataFrame:
        return read_layers(self.folder, self.folder.column_names("layers"))

    @cached_property
    def model(self) -> pd.DataFrame:
        """The layers of the networks; `model` is what a cell's `model_name` is."""
        frame: pd.DataFrame = self.folder.read_records("model").to_pandas()
        frame["model"] = frame["model"].fillna("width " + frame["width"].astype(str))
        return frame.sort_values(["width", "model", "position"], ignore_index=True)

    @cached_property
    def completed_ids(self) -> list[str]:
        """The trials that trained to their end."""
        return list(self.trials.loc[self.trials["status"] == FINISHED, "trial_id"])

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """The cells by id, in the order of the study."""
        return {cell.cell_id: cell for cell in self.info.cells}

    def read_layers(self, columns: Sequence[str], trial_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Some columns of layers, of all trials or of some; trial_id, layer, group and kind are categories.

        Rows of the steps that a trial measures at its cadence (`instrument_every_steps`). The last step of an epoch, where it
        is measured besides, is not among them: an average over the epoch would lean towards its end.
        """
        if trial_ids is not None:
            rows = read_layers(self.folder, list(dict.fromkeys((*columns, *_MOMENT))), trial_ids)
            return self._in_order(rows.loc[self._find_cadence(rows), list(columns)].reset_index(drop=True))
        known = [name for name in columns if name in _LAYER_KEYS]
        values = read_layers(self.folder, [name for name in columns if name not in _LAYER_KEYS])
        if len(values.columns) and not self._cadence.all():
            values = values[self._cadence].reset_index(drop=True)
        return pd.concat([self._layer_keys[known], values], axis=1)[list(columns)]

    def read_last_steps(self, columns: Sequence[str], trial_id: str) -> pd.DataFrame:
        """Some columns of one trial's layers at the last step of each epoch; no rows where that was not measured."""
        rows = read_layers(self.folder, list(dict.fromkeys((*columns, *_MOMENT))), [trial_id])
        epochs = self.epochs[self.epochs["trial_id"] == trial_id]
        chosen: pd.DataFrame = rows.loc[find_last_steps(rows, dict(zip(epochs["epoch"], epochs["step"], strict=True)))]
        return self._in_order(chosen[list(columns)].reset_index(drop=True))

    @cached_property
    def _layer_keys(self) -> pd.DataFrame:
        """What each row of `read_layers` is about, read once for all tables: 10 bytes a row."""
        keys = self._in_order(read_layers(self.folder, _LAYER_KEYS))
        return keys if self._cadence.all() else keys[self._cadence].reset_index(drop=True)

    @cached_property
    def groups(self) -> list[str]:
        """The groups of layers of all networks, from the input to the output."""
        return self._merge("group")

    def _merge(self, column: str) -> list[str]:
        known = self.model.dropna(subset=[column])
        return merge_orders(own[column] for _, own in known.groupby("model", sort=False))

    def _in_order(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Groups and layers as categories from the input to the output, also where a study has several networks."""
        if self.model["model"].nunique() > 1:
            for name, order in (("group", self.groups), ("layer", self._merge("layer"))):
                if name in rows and isinstance(rows[name].dtype, pd.CategoricalDtype):
                    rows[name] = rows[name].cat.set_categories(_sorted_like(order, list(rows[name].cat.categories)))
        return rows

    @cached_property
    def _cadence(self) -> npt.NDArray[np.bool_]:
        """For each row of layers.parquet whether `read_layers` returns it."""
        return self._find_cadence(read_layers(self.folder, _MOMENT))

    def _find_cadence(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        every = self._all_trials[["trial_id", "config.instrument_every_steps"]].dropna()
        return find_cadence(rows, {str(trial_id): int(steps) for trial_id, steps in every.itertuples(index=False)})

    @cached_property
    def _all_trials(self) -> pd.DataFrame:
        frame: pd.DataFrame = self.folder.read_records("trials").to_pandas()
        if frame["trial_id"].duplicated().any():
            twice = frame.loc[frame["trial_id"].duplicated(), "trial_id"].iloc[0]
            raise StudyFolderError(f"{self.folder.records('trials')}: trial {twice} has more than one row")
        return _with_model_fields(frame, self.folder.records("trials"))

    def _of_trials(self, kind: str, trials: pd.DataFrame) -> pd.DataFrame:
        """The rows of these trials, without what a file calls as tables call what they put beside them."""
        frame = self._read_of_trials(kind, trials)
        return frame.drop(columns=[name for name in frame if name in RESERVED[kind]])

    def _read_of_trials(self, kind: str, trials: pd.DataFrame) -> pd.DataFrame:
        known = pc.field("trial_id").isin(pa.array(trials["trial_id"].tolist(), pa.string()))
        frame: pd.DataFrame = self.folder.read_records(kind, filters=known).to_pandas()
        frame["trial_id"] = frame["trial_id"].astype("str")
        return frame


def _sorted_like(order: Sequence[str], names: Sequence[str]) -> list[str]:
    """Groups, or tensors by the module that they are of, in its `order`; one that is not in it stays behind the one before it."""
    place = {name: number for number, name in enumerate(order)}
    places, last = {}, -1
    for name in names:
        last = places[name] = place.get(name, place.get(name.rpartition(".")[0], last))
    return sorted(names, key=places.__getitem__)


def load_study(path: Path | str | StudyFolder, claims_file: Path | None = None) -> Study:
    """The study in a folder, to be held against the claims of a file or, without one, those of the worksheet.

    Errors: StudyFolderError where the folder is missing, damaged, foreign or too new.
    """
    folder = path if isinstance(path, StudyFolder) else StudyFolder(Path(path))
    return Study(folder, folder.read_study(), claims_file)


def count_training_images(study: Study) -> int:
    """Training images of the data set; of a study that does not say, those that a trial's epoch held; 0 if unknown."""
    recorded = study.info.data.get("num_train")
    if isinstance(recorded, int) and not isinstance(recorded, bool) and recorded > 0:
        return recorded
    batch_size = study.epochs["trial_id"].map(study.trials.set_index("trial_id")["config.batch_size"])
    seen = study.epochs["step"] // study.epochs["epoch"] * batch_size
    return int(seen.max()) if len(seen) else 0


def shown_convention(layers: pd.DataFrame) -> str:
    """The worksheet's convention where it is defined for the network, else two per multiply-accumulate."""
    return "flops_worksheet" if layers["flops_worksheet"].notna().any() else "flops_two_per_mac"


def _with_model_fields(trials: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Trials with a column `config.model_fields.NAME` for every field of a network. Errors: StudyFolderError."""
    try:
        found = {row: json.loads(text) for row, text in trials["config.model_fields"].dropna().items()}
        names = dict.fromkeys(name for fields in found.values() for name in fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise StudyFolderError(f"{path}: model_fields are no JSON object ({first_line(error)})") from error
    own = {
        f"config.model_fields.{name}": pd.Series({row: fields.get(name) for row, fields in found.items()}, dtype=object)
        for name in names
    }
    return trials.assign(**{name: column.reindex(trials.index).infer_objects() for name, column in own.items()})


def _one_per_seed(trials: pd.DataFrame, info: StudyInfo) -> pd.DataFrame:
    """One row per cell and seed: of several (data that was changed and accepted) the newest that completed."""
    order = pd.DataFrame(
        {
            "data": trials["data_fingerprint"] == info.data.get("fingerprint"),
            "completed": trials["status"] == FINISHED,
            "started": trials["started_at"].fillna(""),
        },
        index=trials.index,
    ).sort_values(["data", "completed", "started"], kind="stable")
    newest = trials.loc[order.index].drop_duplicates(["cell_id", "seed"], keep="last")
    position = {cell.cell_id: number for number, cell in enumerate(info.cells)}
    return newest.assign(_position=newest["cell_id"].map(position)).sort_values(
        ["_position", "seed"], ignore_index=True
    ).drop(columns="_position")  # fmt: skip
