"""The notice before a node is taken, without a cluster; with one: tests/cluster/test_cluster_faults.py."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest

from study.cluster import notice
from study.cluster.node_probe import UnfitNodeError
from study.cluster.notice import NodeNotice, require_node_stays


@pytest.mark.parametrize("draining", [True, False])
def test_a_trial_is_stopped_when_its_node_is_to_be_taken(monkeypatch: pytest.MonkeyPatch, draining: bool) -> None:
    asked = threading.Event()
    monkeypatch.setattr(notice, "_INTERVAL_S", 0.01)

    def is_draining() -> bool:
        asked.set()
        return draining

    monkeypatch.setattr(notice, "_is_draining", is_draining)
    stop = threading.Event()
    with NodeNotice(stop) as watched:
        assert asked.wait(10)
        assert stop.wait(10 if draining else 0.1) == draining
    assert watched.given == draining
    with pytest.raises(UnfitNodeError, match="is being taken away") if draining else nullcontext():
        require_node_stays()


def test_where_ray_does_not_answer_nothing_is_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray._private.auto_init_hook.enable_auto_connect", False)  # else asking starts a Ray
    require_node_stays()
    assert "whether this node is being taken away cannot be told" in caplog.text
