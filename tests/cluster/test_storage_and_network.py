"""Storage that goes away, a network that parts and clocks that differ while a study runs on two hosts: nothing tells it from one that
was left alone. Few studies carry many faults, because Ray takes its time to start. The hosts are network namespaces.

What takes minutes in the field takes longer here than every limit of Ray's and ours that it might run into: Ray misses a node after 3 s
(by default 15 s), a lock of another host is stale after 60 s. With LONG_FAULTS=1 it takes the minutes of the field.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from analysis.records.study_folder import StudyFolder
from tests.support import shared_disk, two_hosts
from tests.support.alone import run_alone
from tests.support.clock_ahead import clock_ahead
from tests.support.fault_table import FaultTable
from tests.support.faults import Driver, Workplace, compare_trials, repeated_epochs, states, wait_until
from tests.support.object_store import ObjectStore, download
from tests.support.ray_cluster import RayCluster
from tests.support.shared_disk import start_disk
from tests.support.way import Way
from tests.support.wire import FAR, NEAR, start_wire

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(3600)]

PROBLEM = two_hosts.why_not() or shared_disk.why_not()
GRID = """
name = "faults"
seeds = [0]
[base]
dataset = "synthetic"
epochs = {epochs}
width = 2
learning_rate = 0.05
train_limit = 320
test_limit = 50
noise_scale_every_epochs = 0
instrument_every_steps = 10
log_every_steps = 5
[grid]
batch_size = [16, 32]
"""
AWAY_S, READ_ONLY_S, PARTED_S = (600, 60, 300) if os.environ.get("LONG_FAULTS") else (70, 20, 75)


def start(workplace: Workplace, cluster: RayCluster, *arguments: str) -> Driver:
    """The study `disturbed`, which saves every epoch; no failure of a trial is allowed."""
    home = str(workplace.folder / "home")
    return workplace.start(
        "disturbed", "--address", cluster.address, "--checkpoint-interval", "0", "--max-failures", "0", *arguments,
        environment={**cluster.environment, "HOME": home, "XDG_CACHE_HOME": f"{home}/cache"},
    )  # fmt: skip


def await_epochs(study: StudyFolder, more: int = 2) -> None:
    """Return when every trial that has not ended has saved so many more epochs."""
    before = {name: state.epochs_completed for name, state in states(study).items()}
    wait_until(
        lambda: all(
            state.finished or state.epochs_completed >= before.get(name, 0) + more
            for name, state in states(study).items()
        ),
        300,
    )


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_a_study_on_two_hosts_outlives_its_storage_and_its_network(tmp_path: Path, table: FaultTable) -> None:
    with start_disk(tmp_path / "shared") as disk, start_wire() as wire:
        place = Workplace(tmp_path, GRID.format(epochs=80), results="shared/results", wrapper=wire.at("near"))
        study = place.study("disturbed")
        far = clock_ahead(tmp_path, 3600)
        with RayCluster(num_cpus=1, exposed=True, host=NEAR, wrapper=wire.at("near")) as cluster:
            node = cluster.add_node(wrapper=wire.at("far"), environment=far)
            with start(place, cluster) as driver:
                wait_until(lambda: study.trials.is_dir() and len(states(study)) == 2, 240)
                wait_until(lambda: bool(node.workers()), 120)
                await_epochs(study)
                ahead_s = clocks_differ_s(study)

                with disk.away():
                    time.sleep(AWAY_S)
                await_epochs(study)
                shown = [repeated_epochs([driver.output])]

                with disk.read_only():
                    driver.wait_for("storage cannot be written and is waited for: .*Read-only file system", 120)
                    time.sleep(READ_ONLY_S)
                driver.wait_for("storage is back after", 60)
                wait_until(lambda: bool(node.workers()), 120)
                await_epochs(study)
                shown.append(repeated_epochs([driver.output]))

                with wire.parted():
                    parted_at = time.monotonic()
                    driver.wait_for(rf"goes on after: node {FAR} \(\w+\) was lost", 120)
                    time.sleep(max(0.0, PARTED_S - (time.monotonic() - parted_at)))
                node.process.wait(120)  # it is told that it was given up, and ends
                cluster.add_node(wrapper=wire.at("far"), environment=far)
                assert driver.wait() == 0, driver.output
                shown.append(repeated_epochs([driver.output]))
        differences = compare_trials(run_alone(place.folder / "grid.toml", tmp_path / "alone"), study)
        found = states(study).values()
    assert differences == []
    assert [state.failures for state in found] == [()] * 2, "none of it is a failure of a trial"
    notes = [note for state in found for note in state.notes]
    assert any("the storage was away" in note for note in notes), notes
    assert any("was lost" in note for note in notes), notes
    add_rows(table, shown, differences)
    if far:
        assert ahead_s > 3500
        table.add(
            "clocks of two hosts that differ by an hour", "nothing: ages are by the storage's clock", 0, differences
        )


def clocks_differ_s(study: StudyFolder) -> float:
    """By how much the trials disagree on the time at which they began."""
    began = [datetime.fromisoformat(state.started_at or "").timestamp() for state in states(study).values()]
    return max(began) - min(began)


def add_rows(table: FaultTable, shown: list[int], differences: list[str]) -> None:
    away, read_only, parted = (now - before for before, now in zip([0, *shown], shown, strict=False))
    table.add(f"shared storage is away for {AWAY_S} s (who writes waits, as on a hard NFS mount)", "driver and trials wait and go on",
              away, differences)  # fmt: skip
    table.add(f"shared storage is read-only for {READ_ONLY_S} s and more", "said; trials wait until it can be written, which counts as no "
              "failure", read_only, differences)  # fmt: skip
    table.add(f"the network between driver and worker parts for {PARTED_S} s (Ray misses a node after 3 s)", "the trial goes on at the "
              "driver's side; the node that was cut off writes nothing more and ends", parted, differences)  # fmt: skip


def test_a_store_that_is_away_is_waited_for(tmp_path: Path, table: FaultTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 server that nobody can connect to. Then one that is frozen: connections are taken, and nothing comes back."""
    with (
        ObjectStore(tmp_path / "store.log") as store,
        Way(int(store.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])) as way,
    ):
        environment = {**store.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}
        for variable, value in {**environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(variable, value)
        place, url = Workplace(tmp_path, GRID.format(epochs=60)), f"{store.url}/results"
        with RayCluster(num_cpus=2) as cluster, start(place, cluster, "--results", url) as driver:
            driver.wait_for(r"epoch 3/60 ")
            with way.closed():
                driver.wait_for("storage cannot be written and is waited for", 400)
                time.sleep(READ_ONLY_S)
            driver.wait_for("storage is back after", 60)
            os.kill(store.process.pid, signal.SIGSTOP)  # trials train on in memory, and cannot end
            time.sleep(AWAY_S)
            assert driver.process.poll() is None, driver.output
            os.kill(store.process.pid, signal.SIGCONT)
            assert driver.wait() == 0, driver.output
        stored = download(f"{url}/disturbed", tmp_path / "stored")
    differences = compare_trials(run_alone(place.folder / "grid.toml", tmp_path / "alone"), stored)
    assert differences == []
    assert [state.failures for state in states(stored).values()] == [()] * 2
    table.add(
        f"the object store cannot be reached for {READ_ONLY_S} s and more, then is silent for {AWAY_S} s",
        "said; trials go on when it is back, which counts as no failure, and end when it has what they saved",
        repeated_epochs([driver.output]), differences,
    )  # fmt: skip
