"""Where branches begin: the state of a trial after an epoch, kept for as long as branches may need it.

A branch is the trial with the same fields but another batch size and learning rate from `branch_epoch` on. It takes over weights,
batch norm's statistics and the optimizer's state as they are: torch's momentum buffer sums up gradients, not steps, so a new
learning rate applies to all of it from the first step on. A state that is gone or damaged is made again by training the parent up to it.
Knows no study and no Ray.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from trainable.config import TrialConfig, trial_id
from trainable.data.image_data import ImageData
from trainable.errors import IncompatibleVersionError
from trainable.records.checkpoint import Checkpoint
from trainable.records.tables import TrialRecords
from trainable.training.loop import train

_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class BranchPoints:
    """Files of trials by names as `branch_point_name` makes them: `read` returns None of one that is not there; both raise OSError."""

    read: Callable[[str], bytes | None]
    write: Callable[[str, bytes], None]
    epochs: tuple[int, ...] = ()  # after which the state of a trial that is no branch is kept


def branch_point_name(trial: str, epoch: int) -> str:
    """The file of a trial's state after an epoch; checkpoints that are let go have other names."""
    return f"{trial}/branch-{epoch:05d}.ckpt"


def keep_branch_point(points: BranchPoints, checkpoint: Checkpoint) -> None:
    """Write the state that branches of the trial begin from, with its digest before it. Errors: OSError."""
    content = checkpoint.to_bytes()
    name = branch_point_name(trial_id(checkpoint.config, checkpoint.data_fingerprint), checkpoint.epoch)
    points.write(name, hashlib.sha256(content).digest() + content)


def begin_branch(
    config: TrialConfig, data: ImageData, points: BranchPoints | None, device: str, engine: str,
    stop: threading.Event | None,
) -> tuple[Checkpoint | None, list[str]]:  # fmt: skip
    """What a branch goes on from, as a checkpoint of its own without records, and what to note; None when asked to stop.

    Errors: TrainingDiverged where the parent does before the branch; OSError where its state cannot be read or kept.
    """
    parent, epoch = config.parent, config.branch_epoch
    name = branch_point_name(trial_id(parent, data.fingerprint), epoch)
    content = points.read(name) if points else None
    point, problem = _read(content, parent, data.fingerprint, epoch)
    notes: list[str] = []
    if point is None:
        notes = [f"{name} {problem}: the parent was trained again up to it"]
        for result in train(parent, data, device=device, engine=engine, stop=stop):
            if result.epoch == epoch:
                point = result.take_checkpoint()
                break
        if point is None:
            return None, []
        if points:
            keep_branch_point(points, point)
    return replace(point, config=config, records=TrialRecords.empty()), notes


def _read(
    content: bytes | None, parent: TrialConfig, data_fingerprint: str, epoch: int
) -> tuple[Checkpoint | None, str]:
    """The state in a file of this name, or why it cannot be used. Errors: IncompatibleVersionError."""
    if content is None:
        return None, "is not there"
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        return None, "is damaged"
    try:
        point = Checkpoint.from_bytes(content[_DIGEST:])
    except IncompatibleVersionError as error:
        raise IncompatibleVersionError(
            f"{branch_point_name(trial_id(parent, data_fingerprint), epoch)}: {error}"
        ) from error
    except ValueError as error:
        return None, f"cannot be used ({error})"
    if (point.config, point.data_fingerprint, point.epoch) != (parent, data_fingerprint, epoch):
        return None, "is of another trial"
    return point, ""
