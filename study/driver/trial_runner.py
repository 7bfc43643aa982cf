"""The thin Tune trainable: configuration in, `run_trial` out, one small report per epoch.

Runs in Ray's worker processes, which are reused from trial to trial. Everything a trial must not lose is in its own
folder before it is reported, so Ray's files are never read back.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.cluster.node_probe import UnfitNodeError, require_study, require_versions
from study.cluster.notice import NodeNotice, require_node_stays
from study.driver.device import ALLOW_CPU, cpu_allowed, find_gpu_problem
from study.storage.study_lock import watch_driver
from study.storage.trial_storage import TRIALS, TrialStorage
from trainable.config import TrialConfig, trial_id
from trainable.data.image_data import ImageData
from trainable.records.trial_state import TrialState, read_state
from trainable.user_code import Source, provide, user_lines_told

if TYPE_CHECKING:
    from trainable.training.loop import EpochResult


_UNFIT_PAUSE_S = 5.0


class TrialGivenUpError(Exception):
    """The trial has failed as often as it may; the message is the last reason."""


@dataclass(frozen=True)
class TrialSettings:
    """What every trial of one driver shares."""

    storage: TrialStorage
    driver_token: str
    num_threads: int
    gpu_share: float
    timing_exclusive: bool
    checkpoint_interval_s: float
    versions: str  # of what must be the same on all nodes
    prunable: bool = False  # a search may ask a trial to end early
    code: tuple[Source, ...] = ()  # modules of the user's that trials use
    on_cluster: bool = False  # whose nodes may be taken away
    branch_epochs: tuple[int, ...] = ()  # after which its state is kept for branches


def run_tune_trial(tune_config: Mapping[str, Any], *, settings: TrialSettings, data: ImageData) -> None:
    """Train the configuration in `tune_config["trial"]["config"]` and report each epoch to Tune.

    An error is noted in the trial's state by the driver, which also sees the workers that died without a word.
    """
    import ray
    import torch
    from ray import tune

    from trainable.training.branching import BranchPoints
    from trainable.trial import Placement, run_trial

    storage = settings.storage
    provide(settings.code)
    config = TrialConfig.from_dict(tune_config["trial"]["config"])
    try:
        require_study(storage, settings.driver_token)  # a node that has joined late was not probed
        require_versions(settings.versions)
        if settings.on_cluster:
            require_node_stays()
        use_cuda = settings.gpu_share > 0 and _can_use_gpu(bool(ray.get_gpu_ids()))
    except UnfitNodeError:
        time.sleep(_UNFIT_PAUSE_S)  # so that a node that can takes the trial first
        raise
    if use_cuda:
        torch.cuda.empty_cache()
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
    notice = NodeNotice(stop)
    try:
        with (
            storage.open_trial(trial_id(config, data.fingerprint)) as folder,
            notice if settings.on_cluster else nullcontext(),
        ):
            if (state := read_state(folder.path)) is not None and state.status == "failed":
                raise TrialGivenUpError(state.reason)  # by the driver, while Tune started it once more

            def report(result: EpochResult) -> str | None:
                tune.report(build_report(result))  # returns when the driver has dealt with it
                return read_pruning_request(storage, result.trial_id, result.epoch) if settings.prunable else None

            with user_lines_told():
                ended = run_trial(
                    config,
                    data,
                    folder.path,
                    placement,
                    on_epoch=report,
                    on_saved=folder.save,
                    stop=stop,
                    checkpoint_interval_s=settings.checkpoint_interval_s,
                    points=BranchPoints(
                        read=lambda name: storage.read(f"{TRIALS}/{name}"),
                        write=lambda name, content: storage.write(f"{TRIALS}/{name}", content),
                        epochs=settings.branch_epochs,
                    ),
                )
            if notice.given and ended.status == "pending":
                raise UnfitNodeError(f"{socket.gethostname()} is being taken away; the trial had saved")
    finally:
        end_watch()


def _can_use_gpu(given: bool) -> bool:
    """Whether a trial that needs a GPU trains on it. Errors: UnfitNodeError where it cannot and nobody allowed the CPU."""
    problem = find_gpu_problem() if given else "Ray gave it none"
    if problem is not None and not cpu_allowed():
        raise UnfitNodeError(
            f"{socket.gethostname()} cannot train on its GPU ({problem}): see to its driver, or {ALLOW_CPU}"
        )
    return problem is None


def describe_trial(state: TrialState) -> dict[str, Any]:
    """What Tune carries as a trial's configuration, under the key 'trial'."""
    return {"trial_id": state.trial_id, "config": state.config.to_dict()}


def read_trial_id(tune_trial: Any) -> str:
    """The id that `describe_trial` gave to a trial of Tune's."""
    return str(tune_trial.config["trial"]["trial_id"])


def request_pruning(storage: TrialStorage, trial: str, epoch: int, reason: str) -> None:
    """Ask a trial to end after the epoch that it has just reported. Errors: OSError."""
    storage.write(_pruning_file(trial), json.dumps({"epoch": epoch, "reason": reason}).encode())


def read_pruning_request(storage: TrialStorage, trial: str, epoch: int) -> str | None:
    """Why the trial is to end after this epoch; None where nobody asked, or for a later one that it lost and repeats."""
    try:
        content = json.loads(storage.read(_pruning_file(trial)) or b"{}")
        asked_epoch, reason = content["epoch"], content["reason"]
    except (ValueError, KeyError, TypeError):
        return None
    return reason if isinstance(reason, str) and isinstance(asked_epoch, int) and asked_epoch <= epoch else None


def _pruning_file(trial: str) -> str:
    return f"{TRIALS}/{trial}/prune.json"


def build_report(result: EpochResult) -> dict[str, Any]:
    """The scalars of one epoch; what else was measured is in the trial's folder."""
    return {name: value for name, value in result.metrics.items() if isinstance(value, (int, float))}
