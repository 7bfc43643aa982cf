"""Branches: the parent's state goes on bit for bit, with the same images, wherever that state comes from."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.images import make_image_data
from trainable.config import BranchScaling, TrialConfig, cell_id, trial_id
from trainable.data.augmentation import TrainingBatches
from trainable.data.data_set import split_data
from trainable.records.checkpoint import list_checkpoints, read_checkpoint
from trainable.training.branching import BranchPoints, begin_branch, branch_point_name
from trainable.training.loop import train
from trainable.trial import Placement, run_trial

PARENT = TrialConfig(
    dataset="synthetic", width=2, epochs=3, batch_size=32, learning_rate=0.05, log_every_steps=1, instrument_every_steps=3,
    test_limit=10, noise_scale_every_epochs=0,
)  # fmt: skip
BASE = replace(PARENT, branch_epoch=1, branch_batch_size=32, branch_epochs=2)
DATA = make_image_data()
HERE = Placement(num_threads=1)
NOT_SHARED = {"trial_id", "train_time_s", "eval_time_s", "instrument_time_s", "images_per_s", "peak_memory_bytes",
              "training_set_loss"}  # fmt: skip


def points_in(folder: Path, *epochs: int) -> BranchPoints:
    def read(name: str) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).exists() else None

    def write(name: str, content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return BranchPoints(read, write, epochs)


def run_in(folder: Path, config: TrialConfig, points: BranchPoints | None, **how: object) -> Path:
    own = folder / trial_id(config, DATA.fingerprint)
    run_trial(config, DATA, own, HERE, points=points, **how)  # type: ignore[arg-type]
    return own


def records(folder: Path, kind: str, epochs: tuple[int, ...]) -> pa.Table:
    table = pq.read_table(folder / f"{kind}.parquet")
    rows = table.filter(pa.compute.is_in(table["epoch"], pa.array(epochs, pa.int32())))
    return rows.select([name for name in rows.column_names if name not in NOT_SHARED])


def test_the_branch_at_the_parents_own_batch_size_is_the_parent_going_on(tmp_path: Path) -> None:
    points = points_in(tmp_path, 1)
    parent = run_in(tmp_path, PARENT, points, checkpoint_interval_s=0)
    kept = tmp_path / branch_point_name(parent.name, 1)
    assert kept.exists()
    assert kept not in list_checkpoints(parent)  # of which all but the newest are let go
    branch = run_in(tmp_path, BASE, points)
    for kind in ("epochs", "steps", "layers"):
        mine = records(branch, kind, (1, 2, 3))
        assert mine.num_rows
        assert mine.equals(records(parent, kind, (2, 3))), kind
    ours, theirs = (
        read_checkpoint(next(p for p in list_checkpoints(f) if "epoch-00003" in p.name)) for f in (branch, parent)
    )
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in theirs.model)
    momenta = [state["momentum_buffer"] for state in theirs.optimizer["state"].values()]
    assert momenta
    assert all(
        torch.equal(own["momentum_buffer"], buffer)
        for own, buffer in zip(ours.optimizer["state"].values(), momenta, strict=True)
    )
    assert pq.read_table(branch / "epochs.parquet")["training_set_loss"].null_count == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which the parent was trained and its state kept, and that of its base branch."""
    folder = tmp_path_factory.mktemp("trained")
    run_in(folder, PARENT, points_in(folder, 1))
    return folder, run_in(folder, BASE, points_in(folder))


@pytest.mark.parametrize("damage", ["gone", "damaged", "of another trial"])
def test_a_branch_point_that_cannot_be_used_is_made_again(
    tmp_path: Path, trained: tuple[Path, Path], damage: str
) -> None:
    folder, whole = trained
    name, points = branch_point_name(trial_id(PARENT, DATA.fingerprint), 1), points_in(tmp_path, 1)
    before = (folder / name).read_bytes()
    if damage == "damaged":
        points.write(name, before[:-100] + b"x" + before[-99:])
    elif damage == "of another trial":
        other = run_in(tmp_path, replace(PARENT, seed=1, epochs=1), points)
        points.write(name, (tmp_path / branch_point_name(other.name, 1)).read_bytes())
    again = tmp_path / "again"
    state = run_trial(BASE, DATA, again, HERE, points=points)
    assert [f"{damage}" in note.replace("is not there", "gone") for note in state.notes] == [True]
    assert "trained again" in state.notes[0]
    for kind in ("steps", "layers"):
        assert records(again, kind, (2, 3)).equals(records(whole, kind, (2, 3)))
    start, notes = begin_branch(BASE, DATA, points, "cpu", "eager", None)  # it is there again
    assert (start is not None, notes) == (True, [])


def test_a_branch_that_is_stopped_goes_on_and_needs_its_parent_no_more(
    tmp_path: Path, trained: tuple[Path, Path]
) -> None:
    folder, whole = trained
    stop, own = threading.Event(), tmp_path / "own"
    state = run_trial(BASE, DATA, own, HERE, points=points_in(folder), stop=stop, on_epoch=lambda result: stop.set())
    assert (state.status, state.epochs_completed, state.timing_exclusive) == ("pending", 2, True)
    state = run_trial(BASE, DATA, own, HERE, points=None)
    assert (state.status, state.epochs_completed, state.notes) == ("completed", 3, ())
    assert records(own, "layers", (2, 3)).equals(records(whole, "layers", (2, 3)))


def test_a_branch_that_is_stopped_before_it_begins_is_pending(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    state = run_trial(BASE, DATA, tmp_path, HERE, stop=stop)
    assert (state.status, state.epochs_completed) == ("pending", 0)


def test_branches_see_the_same_images_in_the_same_order_whatever_their_batch_size() -> None:
    seen = []
    for size in (16, 48):
        config = replace(BASE, branch_batch_size=size, branch_scaling="linear", branch_images=96)
        batches = TrainingBatches(
            split_data(DATA, config).train, config.as_trained, torch.device("cpu"), num_images=config.branch_images
        )
        parts = list(batches.epoch(2))
        assert [len(labels) for _, labels in parts] == [size] * (96 // size)
        seen.append((torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


def test_another_batch_size_starts_from_the_same_state_with_the_scaled_rate(trained: tuple[Path, Path]) -> None:
    folder, base = trained
    rate = pq.read_table(base / "steps.parquet")["learning_rate"][0].as_py()
    starts = []
    factors: dict[BranchScaling, float] = {"none": 1.0, "sqrt": 2.0, "linear": 4.0}
    for scaling, factor in factors.items():
        config = replace(BASE, branch_batch_size=128, branch_scaling=scaling, branch_images=128)
        start, notes = begin_branch(config, DATA, points_in(folder), "cpu", "eager", None)
        assert start is not None
        assert not notes
        first = next(iter(train(config, DATA, start)))
        assert (first.epoch, first.metrics["step"]) == (2, 6 + 1)
        assert first.steps["learning_rate"].to_pylist() == pytest.approx([factor * rate])
        starts.append(first.metrics["train_loss"])
    assert len(set(starts)) == 1  # of the first step's images, before the rate has any say


def test_ids_follow_from_parent_epoch_and_own_fields() -> None:
    assert BASE.parent == PARENT
    assert BASE.as_trained == PARENT
    assert trial_id(BASE.parent, "data") == trial_id(PARENT, "data")
    others = [
        replace(BASE, branch_epoch=2, branch_epochs=1), replace(BASE, branch_batch_size=64), replace(BASE, branch_images=64),
        replace(BASE, branch_epochs=1), replace(BASE, weight_decay=0.1), replace(BASE, branch_scaling="sqrt"), PARENT,
    ]  # fmt: skip
    assert len({trial_id(config, "data") for config in (BASE, *others)}) == 8
    assert cell_id(replace(BASE, seed=1)) == cell_id(BASE)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"branch_batch_size": 8}, "branch_batch_size without branch_epoch"),
        ({"branch_epoch": 1}, "without branch_batch_size"),
        ({"branch_epoch": 3, "branch_batch_size": 8}, "end after epochs=3"),
        ({"branch_epoch": 1, "branch_batch_size": 8, "branch_images": 12}, "no multiple"),
        (
            {"branch_epoch": 1, "branch_batch_size": 50_000, "branch_scaling": "linear", "learning_rate": 10},
            "learning_rate=",
        ),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrialConfig.from_dict({**PARENT.to_dict(), **fields})


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match="an epoch has only 192"):
        split_data(DATA, replace(BASE, branch_images=224))


def test_a_branch_without_its_parents_state_is_not_trained_from_the_start() -> None:
    with pytest.raises(ValueError, match="parent's state"):
        next(iter(train(BASE, DATA)))
