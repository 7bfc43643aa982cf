"""Reading layers.parquet, the one file of a study that can be large: by column, in batches, names as small integers.

A study of a thousand trials has twelve million rows. Read whole they would take a gigabyte; read like this a column of
numbers takes 50 MB and a column of names 12. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records.study_folder import StudyFolder, StudyFolderError, check_schema
from trainable.errors import first_line
from trainable.records.tables import KEYS, SCHEMAS, widened

_BATCH_ROWS = 500_000
_NAMES = frozenset(column.name for column in SCHEMAS["layers"] if pa.types.is_dictionary(column.type))


def read_layers(folder: StudyFolder, columns: Sequence[str], trial_ids: Sequence[str] | None = None) -> pd.DataFrame:
    """These columns of the layer records, of all trials or of some; names are categories, values not measured NaN.

    A column that the file lacks is NaN; one that only the file knows can be asked for. Only those parts of the file are read that can hold the trials. Errors: StudyFolderError.
    """
    path, wanted = folder.records("layers"), list(columns)
    if not path.exists():
        empty: pd.DataFrame = folder.read_records("layers", wanted).to_pandas()
        return empty
    schema = widened("layers", check_schema(path, "layers"))
    try:
        collected = _collect(path, schema, wanted, trial_ids)
    except (pa.ArrowException, OSError) as error:
        raise StudyFolderError(f"{path}: cannot be read ({first_line(error)})") from error
    return pd.DataFrame(collected, columns=wanted, copy=False)


def find_cadence(rows: pd.DataFrame, every: Mapping[str, int]) -> npt.NDArray[np.bool_]:
    """Which rows were measured at the cadence of their trial: at every `every`-th step of an epoch, from its first.

    A trial also measures the last step of an epoch, which the published Figure 4 shows. Example: with 10 steps an epoch and
    every = 4, the steps 0, 4 and 8 are of the cadence and step 9 is not. `rows` have trial_id, epoch and step; `every` is by
    trial id, and all rows of a trial that it does not name count.
    """
    trials = rows["trial_id"].astype("category").cat
    cadences = np.array([max(every.get(str(trial_id), 1), 1) for trial_id in trials.categories], dtype=np.int64)
    codes = trials.codes.to_numpy()
    # The first step of an epoch is measured whatever the cadence.
    begins = rows["step"].groupby([codes, rows["epoch"].to_numpy()]).transform("min")
    return (
        np.asarray((rows["step"] - begins).to_numpy() % cadences[codes] == 0) if len(rows) else np.ones(0, dtype=bool)
    )


def find_last_steps(rows: pd.DataFrame, steps_taken: Mapping[int, int]) -> npt.NDArray[np.bool_]:
    """Which rows of one trial were measured at the last step of their epoch; `steps_taken` are those after each epoch."""
    return np.asarray(rows["step"] + 1 == rows["epoch"].map(steps_taken))


def _collect(
    path: Path, schema: pa.Schema, wanted: Sequence[str], trial_ids: Sequence[str] | None
) -> dict[str, object]:
    parts: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in wanted}
    known: dict[str, dict[str, int]] = {name: {} for name in ("trial_id", *wanted) if name in _NAMES}
    chosen = None if trial_ids is None else set(trial_ids)
    with pq.ParquetFile(path) as file:
        for batch in _batches(file, wanted, chosen):
            codes = {name: _codes(path, batch, name, known[name]) for name in known if name in batch.schema.names}
            keep: slice | npt.NDArray[np.bool_] = slice(None)
            if chosen is not None:
                of_trial = np.array([trial_id in chosen for trial_id in known["trial_id"]], dtype=bool)
                keep = of_trial[codes["trial_id"]]
            for name in wanted:
                parts[name].append(codes[name][keep] if name in codes else _numbers(path, batch, name)[keep])
    return {name: _joined(schema.field(name).type, parts[name], known.get(name)) for name in wanted}


def _batches(file: pq.ParquetFile, wanted: Sequence[str], chosen: set[str] | None) -> Iterator[pa.RecordBatch]:
    """Batches of the row groups that may hold the chosen trials, by the smallest and largest id in each."""
    names = file.schema_arrow.names
    columns = [name for name in wanted if name in names]
    if chosen is not None or not columns:
        columns = list(dict.fromkeys(["trial_id", *columns]))
    position = names.index("trial_id")
    ordered = sorted(chosen or ())
    groups = [
        number
        for number in range(file.metadata.num_row_groups)
        if chosen is None or _may_hold(file.metadata.row_group(number).column(position), ordered)
    ]
    if groups:
        yield from file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=columns)


def _may_hold(trial_id_column: pq.ColumnChunkMetaData, ordered: Sequence[str]) -> bool:
    """Whether one of these trials, in order, lies between the smallest and the largest id of a row group."""
    bounds = trial_id_column.statistics if trial_id_column.is_stats_set else None
    if bounds is None or not bounds.has_min_max:
        return True
    nearest = bisect.bisect_left(ordered, bounds.min)
    return nearest < len(ordered) and bool(ordered[nearest] <= bounds.max)


def _codes(path: Path, batch: pa.RecordBatch, name: str, known: dict[str, int]) -> npt.NDArray[np.int32]:
    """The names of a batch as positions in `known`, which grows by those that are new."""
    column = batch.column(name)
    if column.null_count:
        raise StudyFolderError(f"{path}: column {name} has empty values")
    names = column.dictionary.to_pylist()
    translation = np.array([known.setdefault(value, len(known)) for value in names], dtype=np.int32)
    if not len(translation):
        return np.empty(0, dtype=np.int32)
    indices: npt.NDArray[np.int32] = column.indices.to_numpy()
    return _smallest(translation, len(known))[indices]


def _numbers(path: Path, batch: pa.RecordBatch, name: str) -> npt.NDArray[np.generic]:
    if name not in batch.schema.names:  # of an older version, which did not measure it
        return np.full(batch.num_rows, np.nan, dtype=np.float32)
    column = batch.column(name)
    if column.null_count and name in KEYS["layers"]:
        raise StudyFolderError(f"{path}: column {name} has empty values")
    values: npt.NDArray[np.generic] = column.to_numpy(zero_copy_only=False)
    return values


def _joined(kind: pa.DataType, parts: list[npt.NDArray[np.generic]], known: dict[str, int] | None) -> object:
    if not parts:
        values = np.empty(0, dtype=np.int8 if known is not None else kind.to_pandas_dtype())
    else:
        values = np.concatenate(parts)
        parts.clear()
    if known is None:
        return values
    return pd.Categorical.from_codes(_smallest(values, len(known)), dtype=pd.CategoricalDtype(list(known)))


def _smallest(codes: npt.NDArray[np.generic], count: int) -> npt.NDArray[np.int32]:
    kind = np.int8 if count < 2**7 else np.int16 if count < 2**15 else np.int32
    return codes.astype(kind, copy=False)
