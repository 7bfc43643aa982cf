"""A real Ray cluster on this machine: a head and nodes as processes of their own, to be joined, killed and added to.

Each node is `ray start --block` in a session of its own, so that all its processes can be ended at once, as a machine that
loses its power. Token authentication is on, as in a cluster that is reached over a network, unless it is to be without.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support.faults import command_line, foreign_listeners

RAY = Path(sys.executable).with_name("ray")
_START_TIMEOUT_S = 90.0


class RayNode:
    """One node of a cluster: its processes, and what it says at its start."""

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path, wrapper: tuple[str, ...] = ()
    ) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*wrapper, str(RAY), "start", "--block", "--disable-usage-stats", *arguments],
                env=dict(environment), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Return when the node has joined. Errors: AssertionError with what it said."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "Ray runtime started" not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        """The node's servers and workers that live now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes of the node in which trials run now."""
        return [process for process in self.processes() if "ray::ImplicitFunc" in " ".join(command_line(process))]

    def kill(self) -> None:
        """SIGKILL to the raylet first, then to everything else of the node: it is gone from one moment to the next."""
        found = sorted(self.processes(), key=lambda process: "raylet/raylet" not in " ".join(command_line(process)))
        self.process.kill()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)
        psutil.wait_procs(found, timeout=30)


class RayCluster:
    """A head with `num_cpus` and `num_gpus`, to which nodes are added; a context manager that leaves no process behind.

    All of it listens on loopback alone, unless it is `exposed` to nodes elsewhere. `wrapper` is a command that runs the head, e.g. in a
    namespace of its own, in which it has the address `host`.
    """

    def __init__(
        self, num_cpus: int = 1, num_gpus: int = 0, object_store_bytes: int = 100_000_000, *, auth_mode: str = "token",
        exposed: bool = False, host: str = "127.0.0.1", wrapper: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self._object_store_bytes, self._exposed = object_store_bytes, exposed
        self.folder = Path(tempfile.mkdtemp(prefix="rc"))  # short: Ray puts sockets below it
        home = self.folder / "home"
        home.mkdir()
        self.environment = {
            **os.environ, "HOME": str(home), "RAY_TMPDIR": str(self.folder), "RAY_AUTH_MODE": auth_mode,
            "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3", "STUDY_CPU_FOR_GPU": "1",
            **({} if exposed else {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}),
        }  # fmt: skip
        self.nodes: list[RayNode] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"{host}:{port}"
        try:
            self._start("--head", f"--port={port}", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}",
                        "--include-dashboard=false", wrapper=wrapper)  # fmt: skip
        except BaseException:
            self.__exit__()
            raise

    def add_node(
        self, num_cpus: int = 1, num_gpus: int = 0, environment: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (), address: str | None = None,
    ) -> RayNode:  # fmt: skip
        """One more node, once it has joined; `wrapper` is a command that runs it, e.g. in a namespace of its own.

        A variable of `environment` that is empty is not set for it.
        """
        return self._start(
            f"--address={address or self.address}", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}",
            environment=environment, wrapper=wrapper,
        )  # fmt: skip

    def _start(
        self, *arguments: str, environment: Mapping[str, str] | None = None, wrapper: tuple[str, ...] = ()
    ) -> RayNode:
        complete = {**self.environment, **(environment or {})}
        if not self._exposed:
            arguments = ("--node-ip-address=127.0.0.1", *arguments)
        node = RayNode(
            (f"--object-store-memory={self._object_store_bytes}", *arguments), {name: value for name, value in complete.items() if value},
            self.folder / f"node-{len(self.nodes)}.log", wrapper,
        )  # fmt: skip
        self.nodes.append(node)
        node.wait()
        assert self._exposed or not (found := foreign_listeners(node.processes())), found
        return node

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
