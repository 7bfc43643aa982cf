"""Nodes that vanish and join while a study runs on a cluster: nothing tells the study from one that was left alone.

All nodes are on this machine, each with processes of its own; records, tables and weights are compared bit for bit, times aside.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.__main__ import main as analyse
from analysis.records.study_folder import StudyFolder
from analysis.sources.pull import pull
from tests.support.alone import run_alone
from tests.support.fault_table import FaultTable
from tests.support.faults import Driver, Workplace, compare_trials, repeated_epochs, states, wait_until
from tests.support.object_store import SECRET, ObjectStore, download
from tests.support.ray_cluster import RayCluster, RayNode

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

GRID = """
name = "faults"
seeds = [0]
[base]
dataset = "synthetic"
epochs = 10
width = 2
learning_rate = 0.05
train_limit = 640
test_limit = 50
noise_scale_every_epochs = 0
instrument_every_steps = 10
log_every_steps = 5
[grid]
batch_size = [16, 24, 32]
"""
OFTEN = ("--checkpoint-interval", "0")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("cluster"), GRID)


@pytest.fixture(scope="module")
def reference(workplace: Workplace) -> StudyFolder:
    """The same trials left alone."""
    return run_alone(workplace.folder / "grid.toml", workplace.study("reference").path)


def start(workplace: Workplace, cluster: RayCluster, name: str, *arguments: str) -> Driver:
    home = str(workplace.folder / "home")
    return workplace.start(
        name, "--address", cluster.address, *OFTEN, *arguments,
        environment={**cluster.environment, "HOME": home, "XDG_CACHE_HOME": f"{home}/cache"}, report=True,
    )  # fmt: skip


@pytest.mark.faults
def test_a_lost_nodes_trial_goes_on_elsewhere_and_a_late_node_is_used(tmp_path: Path, table: FaultTable) -> None:
    """Not one failure is allowed: the loss of a node is none. Trials last longer than a node needs to join."""
    workplace = Workplace(tmp_path, GRID.replace("epochs = 10", "epochs = 40"))
    reference = run_alone(workplace.folder / "grid.toml", workplace.study("reference").path)
    with RayCluster(num_cpus=1) as cluster:
        node = cluster.add_node()
        with start(workplace, cluster, "lost", "--max-failures", "0") as driver:
            wait_until(lambda: has_saved(node, workplace.study("lost")), 240)
            node.kill()
            driver.wait_for(r"goes on after: node \S+ \(\w+\) was lost", 90)
            late = cluster.add_node()
            wait_until(lambda: bool(late.workers()), 120)
            assert driver.wait() == 0, driver.output
    differences = compare_trials(reference, workplace.study("lost"))
    assert differences == []
    assert_one_loss(workplace.study("lost"))
    table.add("SIGKILL of everything on a node", "its trial goes on elsewhere, which counts as no failure",
              repeated_epochs([driver.output]), differences)  # fmt: skip


@pytest.mark.faults
def test_a_node_that_is_taken_with_notice_hands_its_trial_over(
    workplace: Workplace, reference: StudyFolder, table: FaultTable
) -> None:
    """SIGTERM, as a machine gets it that is shut down. Nothing but the notice makes a trial save here before its end."""
    with RayCluster(num_cpus=0) as cluster:
        node = cluster.add_node()
        with start(workplace, cluster, "taken", "--max-failures", "0", "--checkpoint-interval", "3600") as driver:
            driver.wait_for(r"epoch 3/10 ")
            node.process.terminate()
            driver.wait_for(
                r"goes on after: a node could not run it \(.* is being taken away; the trial had saved\)", 90
            )
            cluster.add_node()
            assert driver.wait() == 0, driver.output
            shown = driver.output
    assert repeated_epochs([shown]) == 0
    differences = compare_trials(reference, workplace.study("taken"))
    assert differences == []
    found = states(workplace.study("taken")).values()
    assert sorted(state.attempts for state in found) == [1, 1, 2]
    assert [state.failures for state in found] == [()] * 3
    table.add("a node is taken with notice (SIGTERM to its `ray start --block`)", "its trial saves its last epoch and goes on elsewhere, "
              "which counts as no failure", 0, differences)  # fmt: skip


@pytest.mark.faults
def test_a_raylet_that_dies_alone_leaves_no_second_writer(
    workplace: Workplace, reference: StudyFolder, table: FaultTable
) -> None:
    """Whatever the trial of a node without its raylet does until it notices, the one that goes on elsewhere wins."""
    with RayCluster(num_cpus=0) as cluster:
        node = cluster.add_node()
        with start(workplace, cluster, "raylet", "--max-failures", "0") as driver:
            driver.wait_for(r"epoch 3/10 ")
            [raylet] = [p for p in node.processes() if "raylet/raylet" in " ".join(p.cmdline())]
            raylet.kill()
            driver.wait_for(r"goes on after: node \S+ \(\w+\) was lost", 90)
            cluster.add_node()
            assert driver.wait() == 0, driver.output
    differences = compare_trials(reference, workplace.study("raylet"))
    assert differences == []
    table.add("SIGKILL of a node's raylet alone", "its trial goes on elsewhere; the one that was left there writes nothing more",
              repeated_epochs([driver.output]), differences)  # fmt: skip


def test_a_study_at_a_url_survives_the_loss_of_nodes_that_have_nothing(
    workplace: Workplace, reference: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results on an S3 server. The nodes have no home, no data, no way out; one is lost with its trial, another joins late."""
    with ObjectStore(tmp_path / "store.log") as store:
        for variable, value in {**store.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(variable, value)
        nothing = {
            "HOME": "", "XDG_CACHE_HOME": "/nonexistent", "HTTPS_PROXY": "http://127.0.0.1:1",
        }  # fmt: skip
        with RayCluster(num_cpus=0) as cluster:
            node = cluster.add_node(environment=nothing)
            url = f"{store.url}/results"
            with start(workplace, cluster, "url", "--results", url, "--max-failures", "0") as driver:
                driver.wait_for(r"epoch 3/10 ")
                node.kill()
                driver.wait_for(r"goes on after: node \S+ \(\w+\) was lost", 90)
                cluster.add_node(environment=nothing)
                assert driver.wait() == 0, driver.output
            token = cluster.environment["RAY_AUTH_TOKEN"]
        stored = download(f"{url}/url", tmp_path / "url")
        assert compare_trials(reference, stored) == []
        assert_one_loss(stored)
        assert f"study folder  {url}/url" in driver.output
        files = [path for place in (stored.path, workplace.folder) for path in place.rglob("*") if path.is_file()]
        for secret in (SECRET, "planted-key", token):
            assert not [path for path in files if secret.encode() in path.read_bytes()]

        assert analyse([f"{url}/url"]) == 0
        copy = pull(f"{url}/url", tmp_path / "pulled")
        assert copy.records("epochs").read_bytes() == stored.records("epochs").read_bytes()
        assert (copy.tables / "comparison.csv").read_bytes() == (stored.tables / "comparison.csv").read_bytes()


def has_saved(node: RayNode, study: StudyFolder) -> bool:
    """Whether a trial that runs on the node has saved an epoch. Tune lets it work in a folder of its name."""
    places = [process.cwd() for process in node.workers()]
    begun = [name for name, state in states(study).items() if state.epochs_completed] if places else []
    return any(name in place for name in begun for place in places)


def assert_one_loss(study: StudyFolder) -> None:
    """One trial was started twice, which is noted and counted as no failure."""
    found = states(study).values()
    assert sorted(state.attempts for state in found) == [1, 1, 2]
    assert [state.failures for state in found] == [()] * 3
    assert sum("was lost" in note for state in found for note in state.notes) == 1
