"""StudySpec's trials -> one Ray Tune experiment: resources, callbacks, interruption.

Each invocation is one attempt with its own folder under ray/. Tune schedules and retries; what a trial was and is
lies in the trial's folder, so nothing of Tune's state is ever restored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.cluster.fair_share import FairShare
from study.cluster.node_probe import versions
from study.cluster.session import count_places_now, local_ray
from study.driver.interruption import INTERRUPT_GRACE_S, REMOTE_GRACE_S, Interruption, interrupted_by_signals
from study.driver.trial_runner import RunnerSettings, describe_trial, read_trial_id, run_tune_trial
from study.plan.resources import Machine, TrialResources, reserved_gpus
from study.storage.study_lock import StudyLock
from study.storage.study_store import StudyStore
from trainable.trial_state import TrialState

if TYPE_CHECKING:
    from study.driver.progress import Progress
    from study.driver.searcher import JournalSearcher
    from study.search.journal import SearchJournal
    from study.tracking.mirror import Mirror
    from trainable.data.image_data import ImageData

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """How trials are run; nothing here changes a result."""

    checkpoint_interval_s: float = 30.0
    max_failures: int = 2
    trial_timeout_s: float | None = None  # without a report for so long, an attempt is ended and counts as a failure
    max_concurrent: int | None = None  # on a cluster, where nodes that join late are used too
    verbose: bool = False
    mirror: Mirror | None = None


def run_trials(
    store: StudyStore,
    states: Sequence[TrialState],
    data: ImageData,
    machine: Machine,
    resources: TrialResources,
    lock: StudyLock,
    progress: Progress,
    options: RunOptions,
    journal: SearchJournal | None = None,
) -> bool:
    """Run `states` as one Tune experiment, or what `journal` suggests; False when the user interrupted it.

    Errors of single trials end up in their states, never here.
    """
    remote = machine.is_cluster or store.is_remote
    interruption = Interruption(lock, REMOTE_GRACE_S if remote else INTERRUPT_GRACE_S)
    settings = RunnerSettings(
        storage=store.trial_storage,
        driver_token=lock.token,
        num_threads=resources.cpus_per_trial,
        gpu_share=resources.gpus_per_trial,
        # The CPUs of a cluster's node may have other work too, also of other studies.
        timing_exclusive=resources.timing_exclusive and not (machine.is_cluster and resources.gpus_per_trial == 0),
        checkpoint_interval_s=options.checkpoint_interval_s,
        versions=versions(),
        prunable=journal is not None,
    )
    # A cluster was joined before its resources were shared out, and is left by who joined it.
    own_ray = nullcontext() if machine.is_cluster else local_ray(machine, resources, verbose=options.verbose)
    with (
        interrupted_by_signals(interruption) as set_handlers,
        own_ray,
        _share(lock, machine, resources, options) as share,
    ):
        from ray import tune
        from ray.tune.search import ConcurrencyLimiter
        from ray.tune.search.basic_variant import BasicVariantGenerator

        from study.driver.callbacks import InterruptionStopper, ProgressReporter, RunningTrials, ShareKeeper
        from study.driver.failures import FailureRecorder
        from study.driver.hang_watch import HangWatch
        from study.driver.node_loss import find_node_trouble

        set_handlers()  # Ray has put its own in their place
        hang_watch = HangWatch(options.trial_timeout_s)
        find_trouble = (
            find_node_trouble if machine.is_cluster else lambda trial: None
        )  # the driver lives on the only node
        searcher = None if journal is None else _build_searcher(journal, store, progress, interruption)
        most = share.trials if share else resources.max_concurrent
        trials = ConcurrencyLimiter(searcher, most) if searcher else BasicVariantGenerator(max_concurrent=most)
        trainable = tune.with_resources(
            tune.with_parameters(run_tune_trial, settings=settings, data=data),
            {"cpu": resources.cpus_per_trial, "gpu": reserved_gpus(machine, resources)},
        )
        tuner = tune.Tuner(
            trainable,
            param_space={} if journal else {"trial": tune.grid_search([describe_trial(state) for state in states])},
            tune_config=tune.TuneConfig(
                search_alg=trials,
                num_samples=-1 if journal else 1,
                reuse_actors=True,
                trial_name_creator=read_trial_id,
                trial_dirname_creator=read_trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"attempt-{time.strftime('%Y%m%dT%H%M%S')}-{lock.token[:4]}",
                storage_path=str(store.folder.ray),
                failure_config=tune.FailureConfig(max_failures=-1),  # FailureRecorder counts
                callbacks=[
                    FailureRecorder(store, hang_watch, options.max_failures, find_trouble),
                    hang_watch,
                    RunningTrials(interruption),
                    ProgressReporter(progress, store),
                    *([ShareKeeper(trials, share)] if share else []),
                    *_mirror_callbacks(options.mirror),
                ],
                stop=InterruptionStopper(interruption),
                verbose=1 if options.verbose else 0,
            ),
        )
        try:
            tuner.fit()
        except Exception as error:  # noqa: BLE001, of Tune's own files on a full disk; trials are in folders of their own
            reason = (str(error) or type(error).__name__).splitlines()[0]
            _log.warning("Ray Tune ended early (%s: %s)", type(error).__name__, reason)
    return interruption.requested_at is None


def _build_searcher(
    journal: SearchJournal, store: StudyStore, progress: Progress, interruption: Interruption
) -> JournalSearcher:
    from study.driver.searcher import JournalSearcher

    return JournalSearcher(journal, store, progress, lambda: interruption.requested_at is not None)


@contextmanager
def _share(
    lock: StudyLock, machine: Machine, resources: TrialResources, options: RunOptions
) -> Iterator[FairShare | None]:
    """The study's share of a cluster, where others may run too; None on a Ray of our own."""
    if not machine.is_cluster:
        yield None
        return
    with FairShare(lock.token, options.max_concurrent, lambda: count_places_now(resources)) as share:
        yield share


def _mirror_callbacks(mirror: Mirror | None) -> list[Any]:
    """The W&B callback where there is something to mirror to."""
    if mirror is None or not mirror.started:
        return []
    try:
        from study.tracking.callback import WandbMirror  # imports wandb

        return [WandbMirror(mirror)]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installed wandb, trials do not need it
        mirror.warn(f"wandb cannot be used ({error})")
        return []
