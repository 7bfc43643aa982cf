"""Records as tables: the pyarrow schemas of the columns (trainable/records/columns.py), what is read against them, the records of a trial.

Columns may be added, which leaves every record readable: `conform` reads those that a file lacks as null and keeps those that
this version does not know. SCHEMA_VERSION rises only when older records can no longer be understood (docs/compatibility.md).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from trainable.config import FIELDS, TrialConfig, flatten
from trainable.errors import IncompatibleVersionError, first_line
from trainable.records.columns import COLUMNS, RESERVED

SCHEMA_VERSION = 2


def schema(kind: str) -> pa.Schema:
    """The pyarrow schema of one kind of record: trials, epochs, steps, layers or model. Errors: ValueError for a name given twice or reserved."""
    names = [column.name for column in COLUMNS[kind]]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{kind} records have two columns {twice[0]!r}: an instrument declares one that is there already"
        )
    if reserved := RESERVED.get(kind, set()).intersection(names):
        raise ValueError(
            f"{kind} records have a column {min(reserved)!r}, as tables call what they put beside them: give the instrument's "
            "column another name"
        )
    return pa.schema(
        [pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in COLUMNS[kind]],
        metadata={"schema_version": str(SCHEMA_VERSION), "kind": kind},
    )


SCHEMAS: dict[str, pa.Schema] = {kind: schema(kind) for kind in COLUMNS}
KEYS: dict[str, tuple[str, ...]] = {  # what a row is about: without these columns it is no record
    "trials": ("trial_id", "cell_id", "status", "seed"),
    "epochs": ("trial_id", "epoch", "step"),
    "steps": ("trial_id", "epoch", "step"),
    "layers": ("trial_id", "epoch", "step", "layer", "group", "kind"),
    "model": ("width", "position", "layer"),
    "barriers": ("first", "second", "seed", "barrier"),
}


def check_columns(kind: str, found: pa.Schema) -> None:
    """Raise unless records with these columns are `kind` records that this version can read.

    ValueError where a key is missing or a column is there twice, so that they are no such records or damaged;
    IncompatibleVersionError where a known column has another type.
    """
    if missing := [name for name in KEYS[kind] if name not in found.names]:
        raise ValueError(f"not {kind} records, column {missing[0]} is missing")
    if len(set(found.names)) < len(found.names):
        twice = next(name for name in found.names if found.names.count(name) > 1)
        raise ValueError(f"column {twice} is there twice")
    for column in SCHEMAS[kind]:
        if column.name in found.names and found.field(column.name).type != column.type:
            raise IncompatibleVersionError(
                f"column {column.name} is {found.field(column.name).type}, not {column.type}"
            )


def widened(kind: str, found: pa.Schema) -> pa.Schema:
    """The schema of `kind`, followed by the columns of `found` that this version does not know."""
    known = SCHEMAS[kind]
    return pa.schema([*known, *(column for column in found if column.name not in known.names)], metadata=known.metadata)


def conform(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """`table` with the columns of `wanted`; those that it lacks are null, or a configuration field's default."""
    columns = [table.column(c.name) if c.name in table.column_names else _absent(c, table.num_rows) for c in wanted]
    return pa.Table.from_arrays(columns, schema=wanted)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one kind of record one after the other, with the columns of all of them."""
    wanted = pa.unify_schemas([table.schema for table in tables])
    return pa.concat_tables([conform(table, wanted) for table in tables])


def _absent(column: pa.Field, num_rows: int) -> pa.Array:
    name = column.name.removeprefix("config.")
    if name == column.name or name not in FIELDS:
        return pa.nulls(num_rows, column.type)
    return pa.repeat(pa.scalar(FIELDS[name].default, column.type), num_rows)


def build_table(kind: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as mappings -> a table in the schema of `kind`; absent columns are null, unknown ones raise ValueError."""
    rows = list(rows)
    known = set(SCHEMAS[kind].names)
    for row in rows:
        if unknown := set(row) - known:
            raise ValueError(f"{kind} records have no column {', '.join(sorted(unknown))}")
    return pa.Table.from_pylist(rows, schema=SCHEMAS[kind])


@dataclass(frozen=True)
class TrialRecords:
    """What one trial has measured so far: its epochs, steps and layers, each a table in its schema."""

    epochs: pa.Table
    steps: pa.Table
    layers: pa.Table

    @classmethod
    def empty(cls) -> TrialRecords:
        """Records of a trial that has measured nothing yet."""
        return cls(*(SCHEMAS[kind].empty_table() for kind in ("epochs", "steps", "layers")))

    def extended(self, later: TrialRecords) -> TrialRecords:
        """These records followed by `later` ones; neither is changed."""
        ours, theirs = self.tables(), later.tables()
        return TrialRecords(**{kind: joined([ours[kind], theirs[kind]]) for kind in ours})

    def tables(self) -> dict[str, pa.Table]:
        """The three tables by the name of their kind."""
        return {"epochs": self.epochs, "steps": self.steps, "layers": self.layers}

    def to_ipc(self) -> dict[str, bytes]:
        """Arrow IPC streams by kind, for a checkpoint."""
        return {kind: _table_to_ipc(table) for kind, table in self.tables().items()}

    @classmethod
    def from_ipc(cls, streams: Mapping[str, bytes]) -> TrialRecords:
        """The records that `to_ipc` wrote, in this or another version. Errors: ValueError where a stream is damaged, and
        as `check_columns`."""
        return cls(*(_table_from_ipc(kind, streams[kind]) for kind in ("epochs", "steps", "layers")))


def _table_to_ipc(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    table = table.unify_dictionaries().combine_chunks()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _table_from_ipc(kind: str, stream: bytes) -> pa.Table:
    try:
        table = pa.ipc.open_stream(stream).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(f"damaged {kind} records: {first_line(error)}") from error
    check_columns(kind, table.schema)
    return conform(table, widened(kind, table.schema))


def config_columns(config: TrialConfig) -> dict[str, Any]:
    """The `config.*` columns of a row of trials."""
    fields = json.dumps(dict(config.model_fields)) if config.model_fields else None
    return {**{f"config.{name}": getattr(config, name) for name in FIELDS}, "config.model_fields": fields}


def config_of_row(row: Mapping[str, Any]) -> TrialConfig:
    """The configuration that `config_columns` wrote, in this or another version. Errors: as TrialConfig.from_stored."""
    values = {name: row[f"config.{name}"] for name in FIELDS}
    present = {name: value for name, value in values.items() if value is not None or FIELDS[name].default is None}
    return TrialConfig.from_stored(
        {**present, **flatten({"model_fields": json.loads(row["config.model_fields"] or "{}")})}
    )
