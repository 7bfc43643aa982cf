"""Addresses at which no cluster can be joined are refused in one line, without Ray waiting for minutes."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import pytest

from study.cluster import session
from study.cluster.head import ClusterUnusableError
from study.cluster.session import LocalRay, _kept_sigterm, joined_cluster
from study.plan.resources import Machine, Node, TrialResources


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ray://head:10001",
            "give auto or HOST:PORT, on a node of the cluster; from elsewhere use python -m study.submit",
        ),
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("nonsense", "no Ray cluster answers there"),
        ("127.0.0.1:99999999", "no Ray cluster answers there"),
    ],
)
def test_where_no_cluster_is(address: str, message: str) -> None:
    with pytest.raises(ClusterUnusableError, match=message) as refused, joined_cluster(address, verbose=False):
        pass
    assert str(refused.value).startswith(f"--address {address}: ")
    assert "\n" not in str(refused.value)


def test_something_else_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.cluster.head._ANSWERED_WITHIN_S", 5.0)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(ClusterUnusableError, match="does not answer as a Ray cluster"),
            joined_cluster(address, verbose=False),
        ):
            pass


def test_the_handler_of_sigterm_is_the_drivers_again_after_rays() -> None:
    def own(number: int, frame: FrameType | None) -> None:
        """Of the driver."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        with contextlib.suppress(RuntimeError), _kept_sigterm():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise RuntimeError("the cluster cannot be joined")
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("nodes", [(), (Node(2, 0),)])
def test_a_ray_of_our_own_begins_once_and_again_after_its_end(
    monkeypatch: pytest.MonkeyPatch, nodes: tuple[Node, ...]
) -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def local_ray(*_: object, **__: object) -> Iterator[None]:
        events.append("begun")
        yield
        events.append("ended")

    monkeypatch.setattr(session, "_local_ray", local_ray)
    with LocalRay(Machine(2, 2, nodes=nodes), TrialResources(1, 0, 2), verbose=False) as ray:
        ray.end()
        ray.begin()
        ray.begin()
        ray.end()
        ray.begin()
    assert events == ([] if nodes else ["begun", "ended"] * 2)
