"""Trials, or the suggestions of a search -> one Ray Tune experiment: resources, callbacks, interruption.

Each experiment has its own folder under ray/. Tune schedules and retries; what a trial was and is lies in the trial's
folder, so nothing of Tune's state is ever restored. Ray is imported when it has been set up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.cluster.fair_share import FairShare
from study.cluster.node_probe import versions
from study.cluster.nodes import count_slots_now
from study.driver.interruption import INTERRUPT_GRACE_S, REMOTE_GRACE_S, Interruption, interrupted_by_signals
from study.driver.invocation import Invocation
from study.driver.progress import Progress
from study.driver.trial_runner import TrialSettings, describe_trial, read_trial_id, run_tune_trial
from study.plan.resources import reserved_gpus
from study.tracking.mirror import Mirror
from trainable.errors import last_line
from trainable.records.trial_state import TrialState
from trainable.user_code import provided

if TYPE_CHECKING:
    from ray import tune

    from study.search.journal import SearchJournal

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one experiment trains: `states`, or what `journal` suggests; `progress` shows it."""

    progress: Progress
    states: Sequence[TrialState] = ()
    journal: SearchJournal | None = None
    branch_epochs: tuple[int, ...] = ()  # after which the states of trials are kept for branches


def run_trials(invocation: Invocation, work: Work) -> bool:
    """Run the work as one Tune experiment; False when the user interrupted it.

    Errors of single trials end up in their states, never here.
    """
    elsewhere = invocation.machine.is_cluster or invocation.store.is_remote
    interruption = Interruption(invocation.lock, REMOTE_GRACE_S if elsewhere else INTERRUPT_GRACE_S)
    with interrupted_by_signals(interruption) as set_handlers, ExitStack() as unless_done:
        unless_done.callback(invocation.ray.end)  # with trials that may still run on it
        invocation.ray.begin()
        with _share(invocation) as share:
            tuner = _build_tuner(invocation, work, interruption, share)
            set_handlers()  # Ray has put its own in their place
            try:
                tuner.fit()
            except Exception as error:  # noqa: BLE001, of Tune's own files on a full disk; trials are in folders of their own
                _log.warning("Ray Tune ended early (%s: %s)", type(error).__name__, last_line(error))
            else:
                if interruption.requested_at is None:
                    unless_done.pop_all()
    return interruption.requested_at is None


def _build_tuner(invocation: Invocation, work: Work, interruption: Interruption, share: FairShare | None) -> tune.Tuner:
    from ray import tune

    from study.driver.callbacks import InterruptionStopper

    resources, store = invocation.resources, invocation.store
    source = _build_source(invocation, work, interruption, share.trials if share else resources.max_concurrent)
    described = [describe_trial(state) for state in work.states]
    trainable = tune.with_resources(
        tune.with_parameters(run_tune_trial, settings=_trial_settings(invocation, work), data=invocation.data),
        {"cpu": resources.cpus_per_trial, "gpu": reserved_gpus(invocation.machine, resources)},
    )
    return tune.Tuner(
        trainable,
        param_space={} if work.journal else {"trial": tune.grid_search(described)},
        tune_config=tune.TuneConfig(
            search_alg=source,
            num_samples=-1 if work.journal else 1,
            reuse_actors=True,
            trial_name_creator=read_trial_id,
            trial_dirname_creator=read_trial_id,
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{time.strftime('%Y%m%dT%H%M%S')}-{invocation.lock.token[:4]}",
            storage_path=str(store.folder.ray),
            failure_config=tune.FailureConfig(max_failures=-1),  # FailureRecorder counts
            callbacks=_build_callbacks(invocation, work, interruption, source, share),
            stop=InterruptionStopper(interruption),
            verbose=1 if invocation.settings.verbose else 0,
        ),
    )


def _trial_settings(invocation: Invocation, work: Work) -> TrialSettings:
    machine, resources = invocation.machine, invocation.resources
    return TrialSettings(
        storage=invocation.store.trial_storage,
        driver_token=invocation.lock.token,
        num_threads=resources.cpus_per_trial,
        gpu_share=resources.gpus_per_trial,
        # The CPUs of a cluster's node may have other work too, also of other studies.
        timing_exclusive=resources.timing_exclusive and not (machine.is_cluster and resources.gpus_per_trial == 0),
        checkpoint_interval_s=invocation.settings.checkpoint_interval_s,
        versions=versions(),
        prunable=work.journal is not None,
        code=provided(),
        on_cluster=machine.is_cluster,
        branch_epochs=work.branch_epochs,
    )


def _build_source(invocation: Invocation, work: Work, interruption: Interruption, num_slots: int) -> Any:
    """What Tune takes its trials from, so many at a time."""
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.basic_variant import BasicVariantGenerator

    if work.journal is None:
        return BasicVariantGenerator(max_concurrent=num_slots)
    from study.driver.searcher import JournalSearcher

    searcher = JournalSearcher(
        work.journal, invocation.store, work.progress, lambda: interruption.requested_at is not None
    )
    return ConcurrencyLimiter(searcher, num_slots)


def _build_callbacks(
    invocation: Invocation, work: Work, interruption: Interruption, source: Any, share: FairShare | None
) -> list[tune.Callback]:
    """What listens to Tune, in the order in which it is told."""
    from study.driver.callbacks import ProgressReporter, RunningTrials, ShareKeeper
    from study.driver.failures import FailureRecorder, HangWatch, find_node_trouble

    store, settings = invocation.store, invocation.settings
    hang_watch = HangWatch(settings.trial_timeout_s)
    # The driver lives on the only node of a Ray of our own.
    find_trouble = find_node_trouble if invocation.machine.is_cluster else lambda trial: None
    return [
        FailureRecorder(
            store,
            hang_watch,
            settings.max_failures,
            find_trouble,
            invocation.progress_file,
            lambda: interruption.requested_at is not None,
        ),
        hang_watch,
        RunningTrials(interruption),
        ProgressReporter(work.progress, store, interruption),
        *([ShareKeeper(source, share, work.progress)] if share else []),
        *_mirror_callbacks(invocation.mirror),
    ]


@contextmanager
def _share(invocation: Invocation) -> Iterator[FairShare | None]:
    """The study's share of a cluster, where others may run too; None on a Ray of our own."""
    if not invocation.machine.is_cluster:
        yield None
        return
    limit = invocation.settings.max_concurrent
    with FairShare(invocation.lock.token, limit, lambda: count_slots_now(invocation.resources)) as share:
        yield share


def _mirror_callbacks(mirror: Mirror) -> list[tune.Callback]:
    """The W&B callback where there is something to mirror to."""
    if not mirror.started:
        return []
    try:
        from study.tracking.callback import WandbMirror  # imports wandb

        return [WandbMirror(mirror)]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installed wandb, trials do not need it
        mirror.warn(f"wandb cannot be used ({error})")
        return []
