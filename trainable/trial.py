"""One trial in its folder: goes on from the newest checkpoint, trains to the end, leaves its state on disk.

    trial.json                    status, reason, attempts, hardware, times (records/trial_state.py)
    epoch-<epoch>.<digest>.ckpt   the newest checkpoints, the truth from which a trial goes on
    branch-<epoch>.ckpt           its state after an epoch, while branches need it (branching.py)
    epochs.parquet ...            the records of the newest checkpoint, for readers without torch

Written in this order: checkpoint, records, state; a crash in between leaves a trial that goes on. Ray's runner and
`python -m trainable` both run their trials through `run_trial`. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from trainable.config import TrialConfig
from trainable.data.data_set import ImageData
from trainable.device.engine_check import Chosen, choose_engine
from trainable.files import write_atomically
from trainable.fingerprint import code_fingerprint, cpu_name
from trainable.instrument import TrialEnd
from trainable.records.checkpoint import Checkpoint, load_newest_checkpoint, write_checkpoint
from trainable.records.clock import utc_now
from trainable.records.columns import TRIAL_INSTRUMENTS
from trainable.records.tables import TrialRecords
from trainable.records.trial_state import (
    CHECKPOINT_INTERVAL_S,
    IncompatibleStateError,
    TrialState,
    TrialStateError,
    read_state,
    write_state,
)
from trainable.training.branching import BranchPoints, begin_branch, keep_branch_point
from trainable.training.loop import EpochResult, TrainingDiverged, train


@dataclass(frozen=True)
class Placement:
    """Where a trial runs and what it shares."""

    device: str = "cpu"
    num_threads: int = 1
    gpu_share: float = 0.0
    gpu_ids: str | None = None  # CUDA_VISIBLE_DEVICES
    timing_exclusive: bool = True


def run_trial(
    config: TrialConfig,
    data: ImageData,
    folder: Path,
    placement: Placement,
    *,
    on_epoch: Callable[[EpochResult], str | None] = lambda result: None,
    on_saved: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
    checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S,
    points: BranchPoints | None = None,
) -> TrialState:
    """Train one configuration in its folder to the end, or until `stop` is set; returns the state it leaves there.

    `on_epoch` may return a reason to end the trial there (status pruned). A trial that diverges is an outcome (status
    diverged), one that is stopped stays pending with its last epoch saved. `on_saved` is called whenever files were saved,
    from the thread that saved them; an error of it fails the trial. In `points` are the states that branches begin from.
    Any other exception is the caller's to record, after the trial's last whole epoch was saved if that is possible.
    """
    started = time.monotonic()
    torch.set_num_threads(placement.num_threads)
    checkpoint, problems = load_newest_checkpoint(folder, config, data.fingerprint)
    before = read_state(folder) or TrialState(config=config, data_fingerprint=data.fingerprint)
    engine = choose_engine(config.as_trained, placement.device, len(data.class_names), data.input_shape)
    state = _started(before, placement, checkpoint, problems, engine)
    write_state(folder, state)
    on_saved()
    if checkpoint is None and config.branch_epoch:
        checkpoint, notes = begin_branch(config, data, points, placement.device, engine.name, stop)
        state = replace(state, notes=tuple(dict.fromkeys((*state.notes, *notes))))
        if checkpoint is None:
            state = replace(state, status="pending", reason="interrupted")
            write_state(folder, state)
            on_saved()
            return state

    prepared_s: list[float] = []

    def saved_state(epoch: int) -> TrialState:
        wall_time_s = before.wall_time_s + time.monotonic() - started
        return replace(
            state, epochs_completed=epoch, wall_time_s=wall_time_s,
            preparation_time_s=(before.preparation_time_s or 0.0) + sum(prepared_s),
        )  # fmt: skip

    with _CheckpointWriter(folder, checkpoint, checkpoint_interval_s, saved_state, on_saved, stop) as writer:
        status, reason = "completed", None
        measured: dict[str, float | None] = {}
        try:
            for result in train(
                config, data, checkpoint, device=placement.device, engine=engine.name, stop=stop,
                on_prepared=prepared_s.append,
            ):  # fmt: skip
                newest = result.take_checkpoint()
                if points is not None and not config.branch_epoch and result.epoch in points.epochs:
                    keep_branch_point(points, newest)
                writer.offer(newest)
                why = on_epoch(result)
                if why is not None and result.epoch < config.last_epoch and math.isfinite(result.metrics["train_loss"]):
                    status, reason = "pruned", why
                    break
        except TrainingDiverged as diverged:
            status, reason = "diverged", str(diverged)
        writer.finish()
        if status == "completed" and writer.newest_epoch < config.last_epoch:
            status, reason = "pending", "interrupted"
        elif status == "completed" and writer.newest is not None:
            measured = measure_trial(writer.newest)
    state = replace(
        saved_state(writer.newest_epoch), status=status, reason=reason, ended_at=utc_now(), measured=measured
    )
    _check_not_superseded(folder, state)
    write_state(folder, state)
    on_saved()
    return state


def measure_trial(last: Checkpoint) -> dict[str, float | None]:
    """The columns of trials that instruments measure of a completed trial; what is not finite is null."""
    end = TrialEnd(last.config, last.epoch, last.model, last.optimizer, last.records.tables())
    found = {name: value for one in TRIAL_INSTRUMENTS for name, value in one.measure(end).items()}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


def export_records(folder: Path, records: TrialRecords) -> None:
    """Write a trial's records as Parquet files, each replaced in one step."""
    for kind, table in records.tables().items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_atomically(folder / f"{kind}.parquet", sink.getvalue())


def _started(
    before: TrialState, placement: Placement, checkpoint: Checkpoint | None, problems: list[str], engine: Chosen
) -> TrialState:
    device = torch.device(placement.device)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    code = code_fingerprint()
    elsewhere = checkpoint is not None and (
        (before.hardware, before.num_threads, before.gpu_share, before.engine or "eager")
        != (hardware, placement.num_threads, placement.gpu_share, engine.name)
    )  # fmt: skip
    chosen = [f"engine {engine.name}, not a faster one: {engine.reason}"] if engine.reason else []
    return replace(
        before,
        status="running",
        reason=None,
        code_fingerprint=code,
        epochs_completed=checkpoint.epoch if checkpoint else 0,
        attempts=before.attempts + 1,
        notes=tuple(
            dict.fromkeys((*before.notes, *problems, *chosen, *_changes_of_software(before, checkpoint, code)))
        ),
        hardware=hardware,
        hostname=socket.gethostname(),
        num_threads=placement.num_threads,
        gpu_share=placement.gpu_share,
        gpu_ids=placement.gpu_ids,
        timing_exclusive=placement.timing_exclusive and before.timing_exclusive is not False and not elsewhere,
        engine=engine.name,
        torch_version=torch.__version__,
        started_at=before.started_at or utc_now(),
        ended_at=None,
    )


def _changes_of_software(before: TrialState, checkpoint: Checkpoint | None, code: str) -> list[str]:
    """A note where the epochs of `checkpoint` were trained by other code or another torch than those to come."""
    earlier, now = (before.code_fingerprint, before.torch_version), (code, torch.__version__)
    if checkpoint is None or None in earlier or earlier == now:
        return []
    return [
        f"attempt {before.attempts + 1} went on after epoch {checkpoint.epoch} with code {now[0]} and torch {now[1]}; "
        f"until then it was code {earlier[0]} and torch {earlier[1]}"
    ]


class TrialSupersededError(Exception):
    """Another attempt has taken the trial over: its node was given up for lost, and it goes on elsewhere."""


def _check_not_superseded(folder: Path, state: TrialState) -> None:
    """Raise TrialSupersededError where a later attempt than that of `state` has started in the folder."""
    try:
        current = read_state(folder)
    except IncompatibleStateError:
        raise  # of a newer version, which has taken the trial over
    except TrialStateError:
        return  # damaged; it is written anew
    if current is not None and current.attempts > state.attempts:
        raise TrialSupersededError(f"{folder}: attempt {current.attempts} has taken over from attempt {state.attempts}")


class _CheckpointWriter:
    """Writes checkpoints beside the training: one thread, the newest offered one, no more often than the interval.

    An error of the thread is raised at the next offer, so a trial whose disk is full fails instead of running on.
    """

    def __init__(
        self, folder: Path, resumed: Checkpoint | None, interval_s: float, saved_state: Callable[[int], TrialState],
        on_saved: Callable[[], None], stop: threading.Event | None,
    ) -> None:  # fmt: skip
        self._folder, self._interval_s, self._saved_state, self._stop = folder, interval_s, saved_state, stop
        self._on_saved = on_saved
        self._closed = threading.Event()
        self.newest = resumed
        self._written_epoch = 0  # so that a resumed trial that has nothing left to do exports its records again
        self._written_at = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    @property
    def newest_epoch(self) -> int:
        """The last epoch that was offered, or the one the trial went on from."""
        return self.newest.epoch if self.newest else 0

    def offer(self, checkpoint: Checkpoint) -> None:
        """Take over `checkpoint`; write it now if one is due and none is being written."""
        self.newest = checkpoint
        if self._writing is not None and self._writing.done():
            self._writing.result()
            self._writing = None
        if self._writing is None and time.monotonic() - self._written_at >= self._interval_s:
            self._writing = self._thread.submit(self._write_newest)

    def finish(self) -> None:
        """Return when the newest checkpoint is on disk."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None
        self._thread.submit(self._write_newest).result()

    def _write_newest(self) -> None:
        checkpoint = self.newest
        if checkpoint is None or self._written_epoch >= checkpoint.epoch:
            return
        state = self._saved_state(checkpoint.epoch)
        _check_not_superseded(self._folder, state)
        write_checkpoint(self._folder, checkpoint)
        export_records(self._folder, checkpoint.records)
        write_state(self._folder, state)
        self._on_saved()
        self._written_epoch, self._written_at = checkpoint.epoch, time.monotonic()

    def _save_when_stopped(self, stop: threading.Event) -> None:
        """A stopped trial saves at once: its step on a slow machine may outlast the patience of whoever stops it."""
        while not self._closed.wait(0.2):
            if stop.is_set():
                with contextlib.suppress(RuntimeError):  # closed in between: finish has written it
                    self._thread.submit(self._write_newest)
                return

    def __enter__(self) -> _CheckpointWriter:
        if self._stop is not None:
            threading.Thread(target=self._save_when_stopped, args=(self._stop,), name="save", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:  # the trial failed: what it had finished is still worth keeping
                self.finish()
        except (OSError, RuntimeError, TrialSupersededError):  # RuntimeError: of torch, where a CUDA device has failed
            pass  # the failure that is already on its way says more than a second one
        finally:
            self._closed.set()
            self._thread.shutdown(wait=True)
