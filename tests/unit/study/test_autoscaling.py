"""The nodes that an autoscaler may start: read from where `ray up` leaves them, and counted once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from study.cluster.nodes import parse_nodes, read_planned_nodes, without_running
from study.plan.resources import Machine, Node, ResourceError, divide_resources

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("STUDY_NODES", raising=False)
    return tmp_path


def test_the_head_of_our_cluster_knows_its_workers(home: Path) -> None:
    content = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    for name in ("gpu_worker", "gpu_worker_on_demand"):
        content["available_node_types"][name]["resources"] = {"CPU": 4, "GPU": 1}  # `ray up` asks AWS for them
    (home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(content))
    assert read_planned_nodes() == (Node(4, 1, 4),), "both kinds together are no more than the cluster may have"


@pytest.mark.parametrize(
    "content", ["", "[1]", "a: [", "available_node_types: 3", "available_node_types: {a: {}}\nhead_node_type: b"]
)
def test_a_file_of_another_kind_says_nothing(home: Path, content: str) -> None:
    (home / "ray_bootstrap_config.yaml").write_text(content)
    assert read_planned_nodes() == ()


def test_elsewhere_a_variable_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_planned_nodes() == ()
    monkeypatch.setenv("STUDY_NODES", "4x8x1, 2x16x0")
    assert read_planned_nodes() == (Node(8, 1, 4), Node(16, 0, 2))


@pytest.mark.parametrize("text", ["four", "4x8", "4x8x1,", "-1x8x1"])
def test_a_variable_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ResourceError, match="STUDY_NODES"):
        parse_nodes(text)


def test_nodes_that_run_are_not_to_come() -> None:
    planned = (Node(4, 1, 4), Node(16, 0, 2))
    assert without_running(planned, ()) == planned
    assert without_running(planned, (Node(0, 0), Node(4, 1, 3))) == (Node(4, 1, 1), Node(16, 0, 2))
    assert without_running(planned, (Node(4, 1, 6), Node(16, 0, 2))) == ()


def test_a_node_that_may_come_is_counted_and_does_not_fit_yet() -> None:
    head, planned = Node(0, 0), Node(4, 1, 4)
    machine = Machine(16, 4, nodes=(head, planned), running=(head,))
    assert not machine.fits(1)
    assert Machine(16, 4, nodes=(head, planned), running=(head, Node(4, 1))).fits(1)
    assert divide_resources(machine, 8, gpus_per_trial=1).max_concurrent == 4
