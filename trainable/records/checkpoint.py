"""Checkpoints: everything one trial is, its records so far included, in one file that is whole or not there.

The name of a checkpoint holds its epoch and the SHA-256 of its content (`epoch-00017.<digest>.ckpt`), so damage is
seen on reading and the checkpoint before it is used. Files may come from someone else: they are read with
`weights_only`, which executes nothing. Knows nothing of training.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from trainable.config import TrialConfig
from trainable.errors import IncompatibleVersionError, first_line
from trainable.files import write_atomically
from trainable.records.tables import SCHEMA_VERSION, TrialRecords

# What torch and pyarrow raise when they are given something else; found by feeding them damaged checkpoints.
_NOT_A_CHECKPOINT = (
    RuntimeError, pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError, AssertionError, OSError,
    ArithmeticError, MemoryError, pa.ArrowException,
)  # fmt: skip
_CONTENT = {"schema_version", "config", "data_fingerprint", "epoch", "model", "optimizer", "records"}
_NAME = re.compile(r"epoch-(\d{5,})\.([0-9a-f]{16})\.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a trial after `epoch` finished epochs.

    Its tensors belong to it alone; they are on the device that trained them, or on the CPU where they were read from a file.
    """

    config: TrialConfig
    data_fingerprint: str
    epoch: int
    model: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, Any]
    records: TrialRecords

    @property
    def diverged(self) -> bool:
        """True where the loss of its last epoch is not finite."""
        losses = self.records.epochs.column("train_loss").to_pylist()
        return bool(losses) and losses[-1] is not None and not math.isfinite(losses[-1])

    def to_bytes(self) -> bytes:
        """The checkpoint as one torch file of tensors and plain values."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "config": self.config.to_dict(),
            "data_fingerprint": self.data_fingerprint,
            "epoch": self.epoch,
            "model": _on_host(self.model),
            "optimizer": _on_host(self.optimizer),
            "records": {
                kind: torch.frombuffer(bytearray(stream), dtype=torch.uint8)
                for kind, stream in self.records.to_ipc().items()
            },
        }
        buffer = io.BytesIO()
        with _without_crc():
            torch.save(content, buffer)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Checkpoint:
        """The checkpoint that `to_bytes` wrote, in this or another version; nothing in it is executed.

        Errors: ValueError for anything else; IncompatibleVersionError where only a newer version can go on from it.
        """
        try:
            values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if values["schema_version"] != SCHEMA_VERSION:
                raise IncompatibleVersionError(
                    f"schema version {values['schema_version']}, this program reads {SCHEMA_VERSION}"
                )
            if unknown := sorted(set(map(str, values)) - _CONTENT):
                raise IncompatibleVersionError(f"a newer version wrote it, with {unknown[0][:80]!r}")
            checkpoint = cls(
                config=TrialConfig.from_stored(values["config"]),
                data_fingerprint=str(values["data_fingerprint"]),
                epoch=int(values["epoch"]),
                model=values["model"],
                optimizer=values["optimizer"],
                records=TrialRecords.from_ipc(
                    {kind: tensor.numpy().tobytes() for kind, tensor in values["records"].items()}
                ),
            )
            for table in checkpoint.records.tables().values():
                table.validate(full=True)
            return checkpoint
        except _NOT_A_CHECKPOINT as error:
            raise ValueError(f"not a checkpoint ({first_line(error)})") from error


def _on_host(state: Any) -> Any:
    """A state dict with its tensors on the CPU; copied as tensors, which lets the training go on, unlike torch.save's own copies."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, Mapping):
        return {key: _on_host(value) for key, value in state.items()}
    return [_on_host(value) for value in state] if isinstance(state, list) else state


@contextmanager
def _without_crc() -> Iterator[None]:
    """Within it torch.save computes no checksums of its own: it would hold the GIL, and the file's digest is in its name."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `checkpoint` into `folder` and remove all but `keep`. Errors: OSError, older ones untouched."""
    content = checkpoint.to_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = folder / f"epoch-{checkpoint.epoch:05d}.{digest}.ckpt"
    write_atomically(path, content)
    found = list_checkpoints(folder)
    passed_over = [other for other in found if _epoch(other) > checkpoint.epoch]  # the trial did not go on from these
    for other in (*passed_over, *found[len(passed_over) + keep :]):
        other.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest epoch first; an absent folder has none."""
    found = [path for path in folder.glob("epoch-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_epoch(path), path.stat().st_mtime_ns), reverse=True)


def load_newest_checkpoint(
    folder: Path, config: TrialConfig, data_fingerprint: str
) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint from which this trial can go on, or None, and what was wrong with newer ones.

    One of an epoch that diverged is passed over without a word: training that epoch again ends in the same way.
    Errors: IncompatibleVersionError where the newest whole one is of a newer version; to go on from an older one would lose it.
    """
    problems: list[str] = []
    for path in list_checkpoints(folder):
        try:
            checkpoint = read_checkpoint(path)
        except IncompatibleVersionError as error:
            raise IncompatibleVersionError(f"{path}: {error}") from error
        except (OSError, ValueError) as error:
            problems.append(f"{path.name} cannot be used: {error}")
            continue
        if checkpoint.config != config or checkpoint.data_fingerprint != data_fingerprint:
            problems.append(f"{path.name} cannot be used: it belongs to another trial")
            continue
        if checkpoint.diverged:
            continue
        return checkpoint, problems
    return None, problems


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in this file. Errors: OSError; ValueError where it is damaged or something else, and as `from_bytes`."""
    content = path.read_bytes()
    named = _NAME.fullmatch(path.name)
    if named is None or hashlib.sha256(content).hexdigest()[:16] != named.group(2):
        raise ValueError("damaged, its content does not match the digest in its name")
    return Checkpoint.from_bytes(content)


def _epoch(path: Path) -> int:
    named = _NAME.fullmatch(path.name)
    return int(named.group(1)) if named else -1
