"""Checkpoints: what is written is read back bit for bit, damage is seen, hostile files execute nothing."""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainable.config import TrialConfig
from trainable.records.checkpoint import Checkpoint, list_checkpoints, load_newest_checkpoint, write_checkpoint
from trainable.records.tables import TrialRecords, build_table

CONFIG = TrialConfig(width=8, epochs=3)


def make_checkpoint(epoch: int = 1) -> Checkpoint:
    generator = torch.Generator().manual_seed(epoch)
    weights = {"w": torch.randn(3, 4, generator=generator), "n": torch.tensor(epoch)}
    optimizer = {
        "state": {0: {"momentum_buffer": torch.randn(3, 4, generator=generator)}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    epochs = build_table("epochs", [{"trial_id": "t", "epoch": e, "train_loss": 0.1 * e} for e in range(1, epoch + 1)])
    records = TrialRecords(epochs, TrialRecords.empty().steps, TrialRecords.empty().layers)
    return Checkpoint(CONFIG, "data", epoch, weights, optimizer, records)


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    written = make_checkpoint()
    write_checkpoint(tmp_path, written)
    read, problems = load_newest_checkpoint(tmp_path, CONFIG, "data")
    assert problems == []
    assert read is not None
    assert torch.equal(read.model["w"], written.model["w"])
    assert torch.equal(read.optimizer["state"][0]["momentum_buffer"], written.optimizer["state"][0]["momentum_buffer"])
    assert read.optimizer["param_groups"] == written.optimizer["param_groups"]
    assert read.records.epochs.equals(written.records.epochs)
    assert (read.config, read.epoch, read.data_fingerprint) == (CONFIG, 1, "data")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        write_checkpoint(tmp_path, make_checkpoint(epoch), keep=2)
    assert [path.name[:11] for path in list_checkpoints(tmp_path)] == ["epoch-00003", "epoch-00002"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_said(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, make_checkpoint(1))
    newest = write_checkpoint(tmp_path, make_checkpoint(2))
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"" if damage == "empty" else b"hello")
    newest.write_bytes(content)
    read, problems = load_newest_checkpoint(tmp_path, CONFIG, "data")
    assert read is not None
    assert read.epoch == 1
    assert len(problems) == 1
    assert newest.name in problems[0]
    assert "damaged" in problems[0]


def test_a_checkpoint_of_another_trial_is_not_used(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, make_checkpoint())
    for config, data in ((replace(CONFIG, seed=1), "data"), (CONFIG, "other data")):
        read, problems = load_newest_checkpoint(tmp_path, config, data)
        assert read is None
        assert "another trial" in problems[0]


def test_no_checkpoint_is_no_problem(tmp_path: Path) -> None:
    assert load_newest_checkpoint(tmp_path / "missing", CONFIG, "data") == (None, [])


class Exploit:
    """Unpickling this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_hostile_checkpoint_executes_nothing(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "executed"
    buffer = io.BytesIO()
    if writer == "torch":
        torch.save({"schema_version": Exploit(target)}, buffer)
    else:
        pickle.dump({"schema_version": Exploit(target)}, buffer)
    with pytest.raises(ValueError, match="not a checkpoint"):
        Checkpoint.from_bytes(buffer.getvalue())
    assert not target.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False) if writer == "torch" else pickle.loads(
        buffer.getvalue()
    )
    assert target.exists(), "the file would have worked where it is unpickled without care"


def test_a_failed_write_leaves_the_older_checkpoint_alone(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path, make_checkpoint(1))
    before = first.read_bytes()
    (tmp_path / "blocked").touch()
    with pytest.raises(OSError, match="blocked"):
        write_checkpoint(tmp_path / "blocked", make_checkpoint(2))
    assert first.read_bytes() == before
