"""A Ray cluster of one node for tests: a head with dashboard and token on loopback, on ports and in folders of its own.

It is started with `ray start --head --block` and ended by ending its processes by id, never by `ray stop`, which would end
every Ray of the machine.
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
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider

from tests.support.faults import command_line, foreign_listeners

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_PORTS = (
    "--port", "--dashboard-port", "--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--metrics-export-port",
    "--ray-client-server-port", "--node-manager-port", "--object-manager-port", "--runtime-env-agent-port",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A running head: where its dashboard is, its token, the home folder of its user, and Ray's folder."""

    url: str
    token: str
    home: Path
    ray: Path
    process: subprocess.Popen[str]

    def num_nodes(self) -> int:
        """Nodes that run now, the head's included: each has a raylet."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return sum("raylet/raylet" in " ".join(command_line(process)) for process in family)

    def kill(self) -> None:
        """SIGKILL to everything of the head, also to its jobs and their trials, as a machine that loses its power."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait(30)
        psutil.wait_procs(family, timeout=30)

    def client(
        self, *arguments: str, token: str | None = None, timeout_s: float = 240.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m ARGUMENTS --cluster URL` as a user elsewhere would, who has nothing but the address and the token."""
        return subprocess.run(
            [sys.executable, "-m", *arguments, "--cluster", self.url], cwd=REPOSITORY, env=self.client_environment(token),
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def client_environment(self, token: str | None = None) -> dict[str, str]:
        """Of a client: another home, the token in a variable, nothing of this machine's Ray."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "STUDY_", "WANDB_"))}
        home = self.home.parent / "client"
        home.mkdir(exist_ok=True)
        return {**kept, "HOME": str(home), "RAY_AUTH_TOKEN": self.token if token is None else token, "COLUMNS": "120"}


@contextmanager
def start_head(
    folder: Path, *, num_cpus: int = 2, workers: int | None = None, instead_of: Head | None = None
) -> Iterator[Head]:
    """A head below `folder`; when this ends, so has every process of it.

    With `workers` its autoscaler may start so many nodes of one CPU, each with processes of its own on this machine. One that
    comes `instead_of` another, which is gone, has its dashboard's address and its token.
    """
    home, token = folder / "home", instead_of.token if instead_of else secrets.token_hex(16)
    ray = Path(tempfile.mkdtemp(prefix="rh-"))  # short: Ray puts sockets below it
    (home / ".ray").mkdir(parents=True, mode=0o700)
    (home / ".ray" / "auth_token").touch(0o600)
    (home / ".ray" / "auth_token").write_text(token)
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    if instead_of:
        ports["--dashboard-port"] = int(instead_of.url.rpartition(":")[2])
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "STUDY_", "WANDB_"))},
        "HOME": str(home), "RAY_AUTH_MODE": "token", "STUDY_CPU_FOR_GPU": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0",
    }  # fmt: skip
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
        f"--num-cpus={num_cpus}", f"--temp-dir={ray}", "--disable-usage-stats", "--object-store-memory=200000000",
        *(f"{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    if workers is not None:
        launcher = home / "ray_bootstrap_config.yaml"
        launcher.write_text(yaml.safe_dump(_launcher(workers, f"127.0.0.1:{ports['--port']}")))
        command.append(f"--autoscaling-config={launcher}")
        environment |= {
            "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }  # fmt: skip
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, cwd=folder
        )
    head = Head(f"http://127.0.0.1:{ports['--dashboard-port']}", token, home, ray, process)
    try:
        _wait_until_up(head, folder / "head.log")
        assert not (found := foreign_listeners(psutil.Process(process.pid).children(recursive=True))), found
        yield head
    finally:
        _end(process)
        shutil.rmtree(ray, ignore_errors=True)


def _launcher(workers: int, gcs_address: str) -> dict[str, Any]:
    """A launcher file with Ray's own provider of nodes on this machine, as `ray up` leaves one on the head.

    These nodes share their head's folder, and the end of one removes the packages there that it had unpacked: so they are ended
    only when no study runs any more, nor begins, which on a busy machine takes a minute.
    """
    provider = {
        "type": "external", "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__qualname__}",
        "gcs_address": gcs_address, "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True,
    }  # fmt: skip
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": workers}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "grows", "max_workers": workers, "upscaling_speed": 1.0, "idle_timeout_minutes": 2,
        "provider": provider, "head_node_type": "ray.head.default", "auth": {}, "docker": {}, "file_mounts": {},
        "available_node_types": {"ray.head.default": head, "worker": worker}, "cluster_synced_files": [],
        "initialization_commands": [], "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [],
    }  # fmt: skip


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _wait_until_up(head: Head, log: Path, timeout_s: float = 120.0) -> None:
    request = urllib.request.Request(f"{head.url}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout_s
    while not (
        _answers(opener, request) and "Ray runtime started" in log.read_text()
    ):  # the node joins later than it answers
        assert head.process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


def _answers(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> bool:
    try:
        with opener.open(request, timeout=10):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[str]) -> None:
    """End the head and all that it has started; workers are in sessions of their own, but still its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs(family, timeout=20)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    process.kill()
    process.wait(20)
