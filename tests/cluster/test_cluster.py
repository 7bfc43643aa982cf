"""`python -m study.run --address`: a study on a running Ray cluster of several nodes, and what is refused in one line."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import ray

import analysis
from study.cluster.head import ClusterUnusableError
from study.cluster.session import joined_cluster
from tests.support.faults import wait_until
from tests.support.ray_cluster import RayCluster

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
GRID = """
name = "small"
seeds = [0, 1]
[base]
dataset = "synthetic"
width = 2
epochs = 2
learning_rate = 0.05
train_limit = 320
test_limit = 50
noise_scale_every_epochs = 0
[grid]
batch_size = [16, 32]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(num_cpus=1, num_gpus=0) as running:
        running.add_node(num_cpus=1)
        yield running


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "small.toml").write_text(GRID)
    return folder


def run(workplace: Path, environment: dict[str, str], *arguments: str, expect: int = 0) -> str:
    """`study.run` to its end, from a folder in which the packages cannot be imported by accident."""
    done = subprocess.run(
        [sys.executable, "-m", "study.run", "--grid", "small.toml", "--wandb", "off", *arguments],
        cwd=workplace, env={**environment, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


SMALL_ON_CPU = ("--set", "precision=fp32", "--epochs", "5", "--set", "train_limit=320")


@pytest.fixture(scope="module")
def side_by_side(workplace: Path, cluster: RayCluster) -> dict[str, str]:
    """What two studies said that ran at the same time on a node with two logical GPUs, which is gone now.

    One gives each trial a GPU, the other packs four trials on one.
    """
    node = cluster.add_node(num_cpus=8, num_gpus=2)
    shared = ("--address", cluster.address, *SMALL_ON_CPU)
    exclusive = ("--name", "whole", "--gpus-per-trial", "1", "--max-concurrent", "1")
    packed_four = ("--name", "parts", "--gpus-per-trial", "0.25")
    try:
        with ThreadPoolExecutor() as both:
            whole = both.submit(run, workplace, cluster.environment, *shared, *exclusive)
            parts = both.submit(run, workplace, cluster.environment, *shared, *packed_four)
            return {"whole": whole.result(), "parts": parts.result()}
    finally:
        node.kill()


def test_seeds_are_added_on_a_cluster(workplace: Path, cluster: RayCluster) -> None:
    asked = (
        "--address",
        cluster.address,
        "--name",
        "looks",
        "--until-decided",
        "--max-seeds",
        "4",
        "--gpus-per-trial",
        "0",
    )
    output = run(workplace, cluster.environment, *asked)
    assert "comparisons with the best cell are open after 3 seeds: 2 more trials" in output
    study = analysis.load_study(workplace / "results" / "looks")
    assert list(study.trials["status"]) == ["completed"] * 8
    assert study.info.seeds == (0, 1, 2, 3)


def test_studies_run_side_by_side_and_no_two_trials_share_an_exclusive_gpu(
    workplace: Path, side_by_side: dict[str, str]
) -> None:
    assert "1 GPU a trial, fp32 on 3 nodes" in side_by_side["whole"]
    assert "0.25 GPU a trial, fp32 on 3 nodes" in side_by_side["parts"]
    found = {name: analysis.load_study(workplace / "results" / name) for name in side_by_side}
    assert all(list(study.trials["status"]) == ["completed"] * 4 for study in found.values())
    assert found["whole"].trials["timing_exclusive"].all()
    assert not found["parts"].trials["timing_exclusive"].any()
    trials = pd.concat([study.trials.assign(study=name) for name, study in found.items()], ignore_index=True)
    assert set(trials["gpu_ids"]) <= {"0", "1"}, "a trial sees the one device that it was given"
    packed = 0
    for (_, one), (_, two) in itertools.combinations(trials.iterrows(), 2):
        together = max(one["started_at"], two["started_at"]) < min(one["ended_at"], two["ended_at"])
        if together and one["gpu_ids"] == two["gpu_ids"]:
            assert (one["study"], two["study"]) == ("parts", "parts")
            packed += 1
    assert packed >= 3, "four trials of a quarter share a device"


def test_nothing_of_a_cluster_is_stopped(workplace: Path, cluster: RayCluster, side_by_side: dict[str, str]) -> None:
    study = analysis.load_study(workplace / "results/parts")
    assert study.info.environment["num_cpus"] == 10
    again = ("--address", cluster.address, "--name", "parts", "--gpus-per-trial", "0", *SMALL_ON_CPU)
    two_nodes = "2 CPU cores on 2 nodes"  # Ray needs seconds to miss the node that was killed
    wait_until(lambda: two_nodes in run(workplace, cluster.environment, *again, "--plan"))
    said = run(workplace, cluster.environment, *again)
    assert "nothing to run: 4 of 4 trials are done" in said
    assert two_nodes in said


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (("--gpus-per-trial", "1"), {}, "no node of the cluster has so many GPUs; its nodes are 2 x 1 CPU 0 GPU"),
        ((), {"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": ""}, "the cluster asks for a token"),
    ],
)
def test_what_the_cluster_cannot_do_is_said_in_one_line(
    workplace: Path, cluster: RayCluster, arguments: tuple[str, ...], environment: dict[str, str], reason: str
) -> None:
    output = run(
        workplace, given(cluster, environment), "--address", cluster.address, "--name", "refused", *arguments, expect=2
    )
    assert reason in output
    said = [line for line in output.splitlines() if " is joined (" not in line]  # who waits for longer than 2 s says so
    assert len(said) == 1
    assert not (workplace / "results/refused").exists()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "the cluster refuses the token"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is disabled here, but the cluster asks for a token; unset it"),
        ({"RAY_AUTH_MODE": "k8s"}, "the cluster refuses who comes with RAY_AUTH_MODE=k8s"),
    ],
)
def test_who_may_not_join_is_told_why(
    cluster: RayCluster, environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real head refuses; the driver that would say so is started once, above."""
    # As RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 does where Ray is imported later: otherwise it asks at another address of this machine.
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    with (
        mock.patch.dict(os.environ, given(cluster, environment), clear=True),
        pytest.raises(ClusterUnusableError, match=re.escape(reason)) as refused,
        joined_cluster(cluster.address, verbose=False),
    ):
        pass
    assert "\n" not in str(refused.value)


def given(cluster: RayCluster, environment: dict[str, str]) -> dict[str, str]:
    """What a driver of the cluster has in its environment, changed; a variable that is empty is not set."""
    return {name: value for name, value in {**cluster.environment, **environment}.items() if value}


@pytest.mark.parametrize("mode", ["", "TOKEN"])
def test_a_token_alone_is_enough_to_join(workplace: Path, cluster: RayCluster, mode: str) -> None:
    environment = given(cluster, {"RAY_AUTH_MODE": mode})
    assert "CPU cores on" in run(workplace, environment, "--address", cluster.address, "--plan")


def test_a_token_is_used_only_where_the_cluster_asks_for_one(workplace: Path) -> None:
    """A token in the home folder belongs to another cluster; servers that ask for none could not talk back to this driver."""
    with RayCluster(num_cpus=1, auth_mode="disabled") as cluster:
        token = Path(cluster.environment["HOME"]) / ".ray/auth_token"
        token.parent.mkdir()
        token.write_text("0" * 64)
        without = {name: value for name, value in cluster.environment.items() if not name.startswith("RAY_AUTH_")}
        one = ("--address", cluster.address, "--name", "open", "--seeds", "1", "--epochs", "1")
        said = run(workplace, {**without, "RAY_AUTH_MODE": "token"}, *one, expect=2)
        assert "RAY_AUTH_MODE is token here, but the cluster asks for none; unset it" in said
        run(workplace, without, *one)
    study = analysis.load_study(workplace / "results/open")
    assert list(study.trials["status"]) == ["completed"] * 2
    assert list(study.trials["attempts"]) == [1] * 2


def test_another_version_of_ray_is_refused(workplace: Path, cluster: RayCluster) -> None:
    """This driver claims another version, by the metadata of a package folder that comes first."""
    lies = workplace / "lies"
    (lies / "ray-1.0.0.dist-info").mkdir(parents=True)
    (lies / "ray-1.0.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 1.0.0\n")
    environment = {**cluster.environment, "PYTHONPATH": f"{lies}:{REPOSITORY}"}
    done = subprocess.run(
        [sys.executable, "-m", "study.run", "--grid", "small.toml", "--address", cluster.address, "--name", "refused"],
        cwd=workplace, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"the cluster runs Ray {ray.__version__} on Python" in done.stderr
    assert "this driver Ray 1.0.0" in done.stderr


def test_storage_that_a_node_does_not_share_is_named(workplace: Path, cluster: RayCluster) -> None:
    """A node for which the results folder is another one: mounted over in a namespace of its own."""
    results = workplace / "unshared"
    results.mkdir()
    hide = ("unshare", "--map-root-user", "--mount", "sh", "-c", f'mount -t tmpfs none "{results}" && exec "$@"', "sh")
    if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    node = cluster.add_node(num_cpus=1, wrapper=hide)
    try:
        output = run(workplace, cluster.environment, "--address", cluster.address, "--results", str(results), expect=2)
    finally:
        node.kill()
    assert "error: node " in output
    assert "--results must be on storage that all nodes can read and write" in output
    assert not list(results.glob("*/trials/*/*.ckpt"))
