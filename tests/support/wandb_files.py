"""Reads what wandb writes: a run's .wandb file, LevelDB-framed records of wandb.proto."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_RECORD: Any = vars(wandb_internal_pb2)["Record"]  # made at run time, so no type checker knows it
_BLOCK_BYTES, _FRAME_BYTES = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class WrittenRun:
    """One run as its file tells it; a metric's axis is in `axes`."""

    run_id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)

    def series(self, name: str, axis: str) -> list[tuple[Any, Any]]:
        """(axis, value) of every row that has the metric."""
        return [(row[axis], row[name]) for row in self.history if name in row]


def read_offline_runs(study_folder: Path) -> dict[str, WrittenRun]:
    """The offline runs of a study by id; fails where two folders hold the same run."""
    runs: dict[str, WrittenRun] = {}
    for path in sorted(study_folder.glob("wandb/offline-run-*/*.wandb")):
        run = read_run(path)
        assert run.run_id not in runs, f"two folders for run {run.run_id}"
        runs[run.run_id] = run
    return runs


def read_run(path: Path) -> WrittenRun:
    """The run in a .wandb file."""
    run = WrittenRun()
    for content in _records(path.read_bytes()):
        record = _RECORD.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            own = record.run
            run.run_id, run.name, run.group = own.run_id, own.display_name, own.run_group
            run.job_type, run.project = own.job_type, own.project
            run.config |= _items(own.config.update)
        elif kind == "config":
            run.config |= _items(record.config.update)
        elif kind == "summary":
            run.summary |= _items(record.summary.update)
        elif kind == "history":
            run.history.append(_items(record.history.item))
        elif kind == "metric" and record.metric.step_metric:
            run.axes[record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, name = item.nested_key or [item.key]
        place = found
        for part in outer:  # pictures and tables are nested
            place = place.setdefault(part, {})
        place[name] = json.loads(item.value_json)
    return found


def _records(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B"
    position, parts = _FRAME_BYTES, b""
    while position + _FRAME_BYTES <= len(content):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _FRAME_BYTES:  # the rest of a block that is too small for a frame
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", content[position : position + _FRAME_BYTES])
        data = content[position + _FRAME_BYTES : position + _FRAME_BYTES + length]
        assert zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum
        position += _FRAME_BYTES + length
        parts += data
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""
