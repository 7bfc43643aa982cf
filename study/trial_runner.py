"""The thin Tune trainable: configuration in, `run_trial` out, one small report per epoch.

Runs in Ray's worker processes, which are reused from trial to trial. Everything a trial must not lose is in its own
folder before it is reported, so Ray's files are never read back.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.lock import watch_driver
from study.node_probe import require_study
from study.storage import Storage
from trainable.config import TrialConfig, trial_id
from trainable.files import write_json
from trainable.trial_state import read_state

if TYPE_CHECKING:
    from trainable.image_data import ImageData
    from trainable.training import EpochResult
    from trainable.trial_state import TrialState

PRUNING_FILE = "prune.json"


class TrialGivenUpError(Exception):
    """The trial has failed as often as it may; the message is the last reason."""


@dataclass(frozen=True)
class RunnerSettings:
    """What every trial of one driver shares."""

    storage: Storage
    driver_token: str
    num_threads: int
    gpu_share: float
    timing_exclusive: bool
    checkpoint_interval_s: float


def run_tune_trial(tune_config: Mapping[str, Any], *, settings: RunnerSettings, data: ImageData) -> None:
    """Train the configuration in `tune_config["trial"]["config"]` and report each epoch to Tune.

    An error is noted in the trial's state by the driver, which also sees the workers that died without a word.
    """
    import ray
    import torch
    from ray import tune

    from trainable.trial import Placement, run_trial

    storage = settings.storage
    require_study(storage, settings.driver_token)  # a node that has joined late was not probed

    config = TrialConfig.from_dict(tune_config["trial"]["config"])
    use_cuda = settings.gpu_share > 0 and torch.cuda.is_available() and bool(ray.get_gpu_ids())
    if use_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    placement = Placement(
        device="cuda" if use_cuda else "cpu",
        num_threads=settings.num_threads,
        gpu_share=settings.gpu_share if use_cuda else 0.0,
        gpu_ids=os.environ.get("CUDA_VISIBLE_DEVICES") if settings.gpu_share > 0 else None,
        timing_exclusive=settings.timing_exclusive,
    )
    stop = threading.Event()
    end_watch = watch_driver(
        lambda: storage.read_driver(settings.driver_token), settings.driver_token, stop, storage.poll_interval_s
    )
    try:
        with storage.open_trial(trial_id(config, data.fingerprint)) as place:
            if (state := read_state(place.folder)) is not None and state.status == "failed":
                raise TrialGivenUpError(state.reason)  # by the driver, while Tune started it once more

            def report(result: EpochResult) -> str | None:
                tune.report(build_report(result))  # returns when the driver has dealt with it
                return read_pruning_request(place.folder)

            run_trial(
                config,
                data,
                place.folder,
                placement,
                on_epoch=report,
                on_saved=place.save,
                stop=stop,
                checkpoint_interval_s=settings.checkpoint_interval_s,
            )
    finally:
        end_watch()


def describe_trial(state: TrialState) -> dict[str, Any]:
    """What Tune carries as a trial's configuration, under the key 'trial'."""
    return {"trial_id": state.trial_id, "config": state.config.to_dict()}


def request_pruning(folder: Path, reason: str) -> None:
    """Ask the trial in this folder to end after the epoch that it has just reported."""
    write_json(folder / PRUNING_FILE, {"reason": reason})


def read_pruning_request(folder: Path) -> str | None:
    """Why the trial in this folder is to end; None where nobody asked."""
    try:
        content = json.loads((folder / PRUNING_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    reason = content.get("reason") if isinstance(content, dict) else None
    return reason if isinstance(reason, str) else None


def build_report(result: EpochResult) -> dict[str, Any]:
    """The scalars of one epoch, and its step series for trackers; layer records are not sent through Tune."""
    scalars = {name: value for name, value in result.metrics.items() if value is not None and name != "trial_id"}
    steps = result.steps.drop_columns(["trial_id", "epoch"]).to_pylist()
    return {**scalars, "step_series": steps}
