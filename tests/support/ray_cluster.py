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

_START_TIMEOUT_S = 150.0  # of a busy machine
_MOST_STARTS = 3
# `ray start` lets nobody join where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which keeps Ray on loopback. Here they may, and all else is so.
_JOIN = """
import sys, types
from ray._private import ray_constants
from ray.scripts import scripts
scripts.ray_constants = types.SimpleNamespace(**{**vars(ray_constants), "ENABLE_RAY_CLUSTER": True})
sys.exit(scripts.main())
"""


class RayNode:
    """One node of a cluster: its processes, and what it says at its start."""

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path, wrapper: tuple[str, ...] = ()
    ) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-c", _JOIN, "start", "--block", "--disable-usage-stats", *arguments],
                env=dict(environment), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> bool:
        """Return when the node has joined; False where Ray gave up waiting for it, after 30 s that a busy machine may need.

        Errors: AssertionError with what it said.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while "Ray runtime started" not in (said := self.log.read_text(errors="replace")):
            if self.process.poll() is not None and "The current node timed out during startup" in said:
                return False
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        return True

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
        for _ in range(_MOST_STARTS):
            node = self._launch(arguments, complete, wrapper)
            if node.wait():
                break
            self.nodes.pop().kill()
        else:
            raise AssertionError(node.log.read_text(errors="replace"))
        assert self._exposed or not (found := foreign_listeners(node.processes())), found
        return node

    def _launch(self, arguments: tuple[str, ...], environment: Mapping[str, str], wrapper: tuple[str, ...]) -> RayNode:
        node = RayNode(
            (f"--object-store-memory={self._object_store_bytes}", *arguments),
            {name: value for name, value in environment.items() if value},
            self.folder / f"node-{len(self.nodes)}.log", wrapper,
        )  # fmt: skip
        self.nodes.append(node)
        return node

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
