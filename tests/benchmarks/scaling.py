"""How large a study one driver can carry: `python -m tests.benchmarks.scaling PART`, in parts of a few minutes each.

    rate --places 16     reports/s that the driver takes, from trials that report as fast as they can
    paced --places 64    100 reports/s for a minute: whether it keeps up, and what that costs
    trials --trials 1000 --places 64    a whole study: time, the driver's memory, the growth of files
    trials --trials 1000 --places 64 --nodes 64    the same through a cluster of so many nodes

The driver is the real one: `study.driver.run_trials` with Ray Tune, all callbacks, the states and the gathering of records.
What is simulated are the trials: real Ray workers that train nothing, report what a trial of the published grid reports, and
leave copies of records of its size. Without --nodes these are places on one node of as many logical CPUs; with it, each node
has all of Ray's servers of a node, on this machine (150 MiB each, and 110 MiB for a worker). Prints rows of a table; asserts
nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from analysis.records.study_folder import StudyFolder
from study.cluster import session as cluster
from study.driver import experiment as driver
from study.driver.invocation import Invocation
from study.driver.progress import Progress
from study.folder.ledger import consolidate, register_trials
from study.folder.progress_file import ProgressFile
from study.plan.epoch_times import EpochTimes, Hardware
from study.plan.resources import Machine, TrialResources
from study.spec.run_settings import RunSettings
from study.storage.folder_lock import FolderLock
from study.storage.study_store import FolderStore
from study.tracking.mirror import Mirror
from tests.support.studies import build_cell, write_synthetic_study
from trainable.config import TrialConfig
from trainable.fingerprint import cpu_name
from trainable.records.clock import utc_now
from trainable.records.trial_state import RECORD_KINDS, TrialState, read_state, write_state

MIB = 2**20
_MOST_START_S = 600
_NODE_STORE_BYTES = 80 * MIB  # Ray's least; nothing but the reports goes through it
# Workers are not started before they are needed, and what is slow to answer or to start is not taken for dead.
_MANY_ON_TWO_CORES = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_failure_threshold": "1000",
    "RAY_worker_register_timeout_seconds": "900",
}


@dataclass(frozen=True)
class Pace:
    """What a simulated trial does: so many reports, one every so many seconds if it can, and records of this folder at its end."""

    reports: int
    pause_s: float
    records: str
    places: int
    fingerprint: str = "d" * 16


@dataclass
class Sample:
    """The driver at one moment of a run."""

    at_s: float
    reports: int
    ended: int
    cpu_s: float
    rss_mib: float
    gcs_cpu_s: float
    gcs_rss_mib: float


class Observer(Progress):
    """Counts what reaches the driver's progress display, and draws nothing."""

    def __init__(self, states: list[TrialState], places: int) -> None:
        super().__init__(Console(quiet=True), states, ["batch_size"], places)
        self.reports, self.ended = 0, 0
        self.samples: list[Sample] = []
        self.snapshots_s: list[float] = []

    def start(self, trial_id: str) -> None:
        """Nothing to draw."""

    def update(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """One report has come."""
        self.reports += 1

    def end(self, trial_id: str, status: str, reason: str | None = None) -> None:
        """One trial has ended."""
        self.ended += 1
        if status != "completed":
            raise SystemExit(f"trial {trial_id}: {status}: {reason}")


def report_without_training(tune_config: Mapping[str, Any], *, settings: Any, data: Pace) -> None:
    """A trial as the driver sees it, in the place of `run_tune_trial`."""
    from ray import tune

    _wait_for_workers(settings.storage.study_folder.parent, data.places)
    folder = settings.storage.study_folder / "trials" / tune_config["trial"]["trial_id"]
    state = read_state(folder)
    assert state is not None
    write_state(folder, replace(state, status="running", attempts=1, started_at=utc_now()))
    due_at = time.monotonic()
    for epoch in range(1, data.reports + 1):
        due_at += data.pause_s
        time.sleep(max(0.0, due_at - time.monotonic()))
        tune.report(_build_report(epoch))
    for kind in RECORD_KINDS:
        shutil.copy(f"{data.records}/{kind}.parquet", folder)
    write_state(
        folder, replace(state, status="completed", attempts=1, epochs_completed=data.reports, ended_at=utc_now())
    )


def _wait_for_workers(folder: Path, places: int) -> None:
    """Start when all places have a worker. Two cores start 64 of them in minutes, and Tune gives the worker of each trial that
    ends meanwhile to one whose own is about to be ready, and ends that: of trials shorter than that, half the places stay empty.
    """
    (folder / f"worker-{os.getpid()}").touch()
    waited_until = time.monotonic() + _MOST_START_S
    while len(list(folder.glob("worker-*"))) < places:
        if time.monotonic() > waited_until:
            raise TimeoutError(f"only {len(list(folder.glob('worker-*')))} of {places} workers after {_MOST_START_S} s")
        time.sleep(1.0)


def _build_report(epoch: int) -> dict[str, Any]:
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate", "train_time_s", "eval_time_s",
             "instrument_time_s", "images_per_s", "noise_scale", "gradient_l2_squared_unbiased", "gradient_covariance_trace")  # fmt: skip
    scalars: dict[str, Any] = dict.fromkeys(names, 0.1234567)
    return {**scalars, "epoch": epoch, "step": 781 * epoch, "peak_memory_bytes": 2_000_000_000}


@contextmanager
def nodes_for(places: int, nodes: int) -> Iterator[Machine]:
    """A cluster of so many nodes on this machine, joined as a driver does; without nodes, the places on one of its own."""
    if nodes == 0:
        yield Machine(num_cpus=places, num_gpus=0)
        return
    from ray.cluster_utils import Cluster

    started = time.monotonic()
    servers = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": _NODE_STORE_BYTES}
    )  # fmt: skip
    try:
        for _ in range(nodes):
            servers.add_node(wait=False, num_cpus=places // nodes, object_store_memory=_NODE_STORE_BYTES)
        servers.wait_for_nodes(timeout=_MOST_START_S)
        print(f"{nodes} nodes have started after {time.monotonic() - started:.0f} s", flush=True)
        with cluster.joined_cluster(servers.address, verbose=False) as machine:
            yield machine
    finally:
        servers.shutdown()  # type: ignore[no-untyped-call]


def run(num_trials: int, places: int, pace: Pace, folder: Path, nodes: int = 0) -> tuple[Observer, StudyFolder]:
    """Run so many simulated trials with the real driver; what was observed, and the study folder."""
    setattr(driver, "run_tune_trial", report_without_training)  # noqa: B010 - not an assignment, for the type checker
    study = StudyFolder(folder / "study")
    states = [TrialState(config=_config(seed), data_fingerprint=pace.fingerprint) for seed in range(num_trials)]
    observer = Observer(states, places)
    resources = TrialResources(cpus_per_trial=1, gpus_per_trial=0.0, max_concurrent=places)
    with (
        nodes_for(places, nodes) as machine,
        FolderLock(study.path) as lock,
        _sampled(observer),
        _timed_snapshots(observer),
    ):
        register_trials(study, states)
        invocation = Invocation(
            settings=RunSettings(), arguments=[], command="", store=FolderStore(study), lock=lock,
            data=pace, machine=machine, resources=resources, times=EpochTimes(Hardware()),  # type: ignore[arg-type]
            mirror=Mirror(study, "off"), progress_file=ProgressFile(), ray=cluster.LocalRay(machine, resources, verbose=False),
        )  # fmt: skip
        finished = driver.run_trials(invocation, driver.Work(progress=observer, states=states))
    if not finished:
        print(f"interrupted: {observer.ended} of {num_trials} trials ended; what follows is of these")
    return observer, study


def _config(seed: int) -> TrialConfig:
    return TrialConfig(dataset="synthetic", seed=seed)


@contextmanager
def _sampled(observer: Observer) -> Iterator[None]:
    process, started, ended = psutil.Process(), time.monotonic(), threading.Event()

    def sample() -> None:
        over = False
        while not over:
            over = ended.wait(0.5)  # and once more after the end
            usage = (*_usage(process), *_usage(_find_gcs(process)))
            observer.samples.append(Sample(time.monotonic() - started, observer.reports, observer.ended, *usage))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _find_gcs(process: psutil.Process) -> psutil.Process | None:
    """Ray's server of the whole cluster, which was started by this process, as soon as it has been."""
    return next((child for child in process.children() if child.name().startswith("gcs_server")), None)


def _usage(process: psutil.Process | None) -> tuple[float, float]:
    """(CPU seconds, MiB resident) of a process; of none, zeros."""
    if process is None:
        return 0.0, 0.0
    try:
        cpu = process.cpu_times()
        return cpu.user + cpu.system, process.memory_info().rss / MIB
    except psutil.NoSuchProcess:
        return 0.0, 0.0


@contextmanager
def _timed_snapshots(observer: Observer) -> Iterator[None]:
    """Times every snapshot that Tune takes of the experiment's state."""
    from ray.tune.execution.tune_controller import TuneController

    take = TuneController.checkpoint

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.monotonic()
        try:
            return take(*arguments, **options)
        finally:
            observer.snapshots_s.append(time.monotonic() - started)

    setattr(TuneController, "checkpoint", timed)  # noqa: B010 - not an assignment to a method, for the type checker
    try:
        yield
    finally:
        setattr(TuneController, "checkpoint", take)  # noqa: B010


def write_records(folder: Path) -> str:
    """The records of one trial of the published grid: 25 epochs, 781 steps each, 62 tensors measured every 100 steps."""
    study = write_synthetic_study(folder, cells=[build_cell("published", dataset="synthetic")], seeds=(0,))
    return str(study.path)


def _measure_middle(observer: Observer, num_reports: int) -> tuple[int, float, float]:
    """(reports, seconds, CPU seconds) between the first and the last tenth of all reports."""
    busy = [s for s in observer.samples if 0.1 < s.reports / num_reports < 0.9]
    first, last = busy[0], busy[-1]
    return last.reports - first.reports, last.at_s - first.at_s, last.cpu_s - first.cpu_s


def measure_rate(places: int, reports: int) -> None:
    """Reports/s at saturation."""
    with tempfile.TemporaryDirectory() as name:
        observer, _ = run(places, places, Pace(reports, 0.0, write_records(Path(name) / "records"), places), Path(name))
        count, took_s, cpu_s = _measure_middle(observer, places * reports)
        print("| trials at once | reports | reports/s | driver's CPU time of a report, ms | driver's cores busy |")
        print(f"| {places} | {count:,} | {count / took_s:.0f} | {1000 * cpu_s / count:.2f} | "
              f"{cpu_s / took_s:.2f} |")  # fmt: skip


def measure_paced(places: int, rate: float, duration_s: float) -> None:
    """Whether the driver keeps up with so many reports/s."""
    reports = round(rate * duration_s / places)
    with tempfile.TemporaryDirectory() as name:
        observer, _ = run(
            places, places, Pace(reports, places / rate, write_records(Path(name) / "records"), places), Path(name)
        )
        count, took_s, cpu_s = _measure_middle(observer, places * reports)
        print("| trials at once | asked, reports/s | taken, reports/s | driver's cores busy | driver's memory, MiB |")
        print(f"| {places} | {rate:.0f} | {count / took_s:.1f} | {cpu_s / took_s:.2f} | "
              f"{max(s.rss_mib for s in observer.samples):.0f} |")  # fmt: skip


def measure_trials(num_trials: int, places: int, reports: int, pause_s: float, nodes: int) -> None:
    """A whole study: time, memory and files by the number of trials that have ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = write_records(folder / "records")
        observer, study = run(num_trials, places, Pace(reports, pause_s, records, places), folder, nodes)
        print(f"{len(list(folder.glob('worker-*')))} worker processes for {places} trials at once\n")
        print(
            "| trials ended | s | driver's memory, MiB | driver's CPU time, s | GCS's memory, MiB | GCS's CPU time, s |"
        )
        for part in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
            sample = next(s for s in observer.samples if s.ended >= part * observer.samples[-1].ended)
            print(f"| {sample.ended} | {sample.at_s:.0f} | {sample.rss_mib:.0f} | {sample.cpu_s:.1f} | "
                  f"{sample.gcs_rss_mib:.0f} | {sample.gcs_cpu_s:.1f} |")  # fmt: skip
        attempt = next(study.ray.iterdir())
        state = sorted(attempt.glob("experiment_state-*.json"))[-1].stat().st_size
        started = time.monotonic()
        consolidate(study)
        print(f"\nlongest snapshot of Tune's state {max(observer.snapshots_s):.2f} s")
        print(f"Tune's state file {state / MIB:.2f} MiB, all of ray/ {_size(study.ray) / MIB:.1f} MiB, trials/ "
              f"{_size(study.trials) / MIB:.0f} MiB, layers.parquet {study.records('layers').stat().st_size / MIB:.0f} MiB; "
              f"gathering all records {time.monotonic() - started:.1f} s, after it {psutil.Process().memory_info().rss / MIB:.0f} "
              "MiB")  # fmt: skip


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure one part and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("rate", "paced", "trials"))
    parser.add_argument("--places", type=int, default=64, help="trials at the same time (default: 64)")
    parser.add_argument(
        "--nodes", type=int, default=0, help="nodes that share the places of `trials` (default: 0, one node)"
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--reports", type=int, help="of a trial (default: 200 for rate, 3 for trials)")
    parser.add_argument(
        "--pause", type=float, default=0.0, metavar="S", help="between a trial's reports in `trials` (default: 0)"
    )
    parser.add_argument("--rate", type=float, default=100.0, help="reports/s of `paced` (default: 100)")
    options = parser.parse_args()
    # Before Ray is imported, as the driver does.
    os.environ.update(cluster._QUIET | cluster._LOOPBACK | _MANY_ON_TWO_CORES)
    print(f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} x {cpu_name()}, Python {platform.python_version()}, "
          f"Ray {metadata.version('ray')}\n")  # fmt: skip
    if options.part == "rate":
        measure_rate(options.places, options.reports or 200)
    elif options.part == "paced":
        measure_paced(options.places, options.rate, duration_s=60.0)
    else:
        measure_trials(options.trials, options.places, options.reports or 3, options.pause, options.nodes)


if __name__ == "__main__":
    main()
