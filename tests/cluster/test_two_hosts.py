"""deploy/on-premises.yaml for real: two hosts, `ray up`, a study submitted from a laptop, its pulled tables, `ray down`.

The installation finds the environment of these tests ready on both hosts, so nothing is downloaded; all else is as in the file.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import list_states
from tests.support.two_hosts import ADDRESSES, TwoHosts, start_two_hosts, why_not

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PROBLEM = why_not()
GRID = """
name = "two-hosts"
seeds = [0, 1]
[base]
dataset = "synthetic"
epochs = 3
width = 1
train_limit = 512
test_limit = 50
noise_scale_every_epochs = 0
learning_rate = 0.05
[grid]
batch_size = [32, 64]
"""


@pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
def test_from_ray_up_to_the_pulled_comparison_to_ray_down() -> None:
    with tempfile.TemporaryDirectory(prefix="th-") as name, start_two_hosts(Path(name)) as hosts:
        cluster_file = configure(hosts)
        up = run(hosts, "ray", "up", "-y", str(cluster_file), timeout_s=300)
        assert "Useful commands" in up, up
        with dashboard(hosts, cluster_file):
            results = hosts.folder / "shared"
            wait_for_cpus(hosts, cluster_file, 2 * (os.cpu_count() or 1))
            grid = hosts.folder / "grid.toml"
            grid.write_text(GRID)
            said = run(
                hosts, "python", "-m", "study.submit", "--grid", str(grid), "--results", str(results), "--follow"
            )
            assert "progress: 4 of 4 trials done" in said
            assert "done" in run(hosts, "python", "-m", "study.status", "two-hosts")
            pulled = hosts.home("laptop") / "pulled"
            said = run(hosts, "python", "-m", "study.pull", "two-hosts", "--to", str(pulled))
            assert "final test accuracy, %" in said
        states = list_states(StudyFolder(results / "two-hosts"))
        assert [state.status for state in states] == ["completed"] * 4
        assert {state.hostname for state in states} == set(ADDRESSES), "trials ran on both hosts"
        assert (
            StudyFolder(pulled).read_records("trials").equals(StudyFolder(results / "two-hosts").read_records("trials"))
        )
        run(hosts, "ray", "down", "-y", str(cluster_file))
        deadline = time.monotonic() + 120  # the worker ends by itself when it misses its head
        while left := ray_processes(hosts):
            assert time.monotonic() < deadline, left
            time.sleep(1)


def configure(hosts: TwoHosts) -> Path:
    """The three lines of deploy/on-premises.yaml that a user changes; a token; and an environment that is ready."""
    content = yaml.safe_load((REPOSITORY / "deploy" / "on-premises.yaml").read_text())
    head, *workers = ADDRESSES.values()
    content["cluster_name"] = f"two-hosts-{os.getpid()}"  # part of the names of Ray's files on the laptop
    content["provider"].update(head_ip=head, worker_ips=workers)
    content["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    token = hosts.home("laptop") / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(secrets.token_hex(16))
    install = str(REPOSITORY / "deploy" / "install.sh")
    ready = subprocess.run(["bash", install, "--fingerprint"], capture_output=True, text=True, check=True).stdout
    for host in ADDRESSES:
        (hosts.home(host) / "study-venv").symlink_to(sys.prefix)
        (hosts.home(host) / "study-venv.ready").write_text(ready)
        shutil.copy("/etc/skel/.bashrc", hosts.home(host) / ".bashrc")
    path = hosts.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(hosts: TwoHosts, *command: str, timeout_s: float = 240.0) -> str:
    """What a command on the laptop prints; it must succeed."""
    done = subprocess.run(
        on_laptop(hosts, *command), cwd=REPOSITORY, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    print(f"$ {' '.join(command)}\n{done.stdout}")
    assert done.returncode == 0, done.stdout
    return done.stdout


def on_laptop(hosts: TwoHosts, *command: str) -> list[str]:
    """With the one setting that deploy/on-premises.yaml names."""
    program, *rest = command
    return hosts.laptop(str(BIN / program), *rest, RAY_UP_enable_autoscaler_v2="0")


def clean_environment() -> dict[str, str]:
    """This one without anything about Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "STUDY_", "WANDB_"))}


@contextmanager
def dashboard(hosts: TwoHosts, cluster_file: Path) -> Iterator[None]:
    """`ray dashboard`, which forwards the head's dashboard to the laptop."""
    forwarding = subprocess.Popen(
        on_laptop(hosts, "ray", "dashboard", str(cluster_file)), cwd=REPOSITORY, env=clean_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(
            hosts.laptop("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8265"), capture_output=True, timeout=30, check=False
        ).returncode:
            assert time.monotonic() < deadline, "ray dashboard forwards nothing"
            time.sleep(0.3)
        yield
    finally:
        os.killpg(forwarding.pid, 15)
        forwarding.wait(30)


def wait_for_cpus(hosts: TwoHosts, cluster_file: Path, count: int) -> None:
    """Return when the worker has joined."""
    deadline = time.monotonic() + 100
    while f"/{count}.0 CPU" not in (said := run(hosts, "ray", "exec", str(cluster_file), "ray status")):
        assert time.monotonic() < deadline, said + monitor_log(hosts)
        time.sleep(3)


def monitor_log(hosts: TwoHosts) -> str:
    """What the head's autoscaler has noted last, for a failure's message."""
    logs = sorted((hosts.folder / "alpha" / "ray").glob("session_2*/logs/monitor.*"))
    return "".join(f"\n{log.name}:\n{log.read_text(errors='replace')[-4000:]}" for log in logs)


def ray_processes(hosts: TwoHosts) -> list[str]:
    """What still runs of Ray on the hosts, seen from outside; a worker's log monitor outlives its raylet."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment, command = path.read_bytes(), path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if (
            any(str(hosts.home(host)).encode() in environment for host in ADDRESSES)
            and b"ray" in command.lower()
            and b"log_monitor" not in command
        ):
            found.append(command.replace(b"\0", b" ").decode(errors="replace")[:120])
    return found
