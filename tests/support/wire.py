"""Two hosts with a network of their own that can be parted, for tests: network namespaces, joined by a bridge in a third one.

They share the disk, the process ids and the clock. Nothing of the machine's own network is touched. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

NEAR, FAR = "10.79.0.1", "10.79.0.2"
_ADDRESSES = {"near": NEAR, "far": FAR}
_HUB = "10.79.0.9"


@dataclass(frozen=True)
class Wire:
    """The network; `mark` is in the names of its namespaces."""

    mark: str

    def at(self, host: str) -> tuple[str, ...]:
        """The command that runs another one on the host `near` or `far`."""
        return ("ip", "netns", "exec", self.mark + host)

    @contextmanager
    def parted(self) -> Iterator[None]:
        """Whatever is sent in the block is lost without a word."""
        _run("ip", "-n", f"{self.mark}hub", "link", "set", "far", "nomaster")
        try:
            yield
        finally:
            _run("ip", "-n", f"{self.mark}hub", "link", "set", "far", "master", "hub")


@contextmanager
def start_wire() -> Iterator[Wire]:
    """The two hosts; nothing of them is left afterwards."""
    wire = Wire(f"w{os.getpid()}")
    hub = f"{wire.mark}hub"
    with ExitStack() as stack:
        for name in ("hub", *_ADDRESSES):
            _run("ip", "netns", "add", wire.mark + name)
            stack.callback(_run, "ip", "netns", "del", wire.mark + name)
            _run("ip", "-n", wire.mark + name, "link", "set", "lo", "up")
        _run("ip", "-n", hub, "link", "add", "hub", "type", "bridge")
        _run("ip", "-n", hub, "addr", "add", f"{_HUB}/24", "dev", "hub")
        _run("ip", "-n", hub, "link", "set", "hub", "up")
        for name, address in _ADDRESSES.items():
            host = wire.mark + name
            _run("ip", "-n", hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host)
            _run("ip", "-n", hub, "link", "set", name, "master", "hub", "up")
            _run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            _run("ip", "-n", host, "link", "set", "eth0", "up")
            _run(
                "ip", "-n", host, "route", "add", "default", "via", _HUB
            )  # leads nowhere; from it Ray knows the address
        yield wire


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
