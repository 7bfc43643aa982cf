"""Addresses at which no cluster can be joined are refused in one line, without Ray waiting for minutes."""

from __future__ import annotations

import contextlib
import signal
import socket
from types import FrameType

import pytest

from study.cluster.head import ClusterError
from study.cluster.session import _kept_sigterm, joined_cluster


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
    with pytest.raises(ClusterError, match=message) as refused, joined_cluster(address, verbose=False):
        pass
    assert str(refused.value).startswith(f"--address {address}: ")
    assert "\n" not in str(refused.value)


def test_something_else_listens_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.cluster.head._ANSWERED_WITHIN_S", 5.0)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            pytest.raises(ClusterError, match="does not answer as a Ray cluster"),
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
