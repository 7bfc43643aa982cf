"""Two hosts and a laptop on one machine, for tests: network namespaces, joined by a bridge in the laptop's.

Each host has an address, a hostname, process ids, a home folder and an sshd of its own; they share the disk, which serves
as the shared storage. Nothing of the machine's own network is touched, and ending a host ends all that runs in it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
_LAPTOP = "10.77.0.9"
_SSHD = "/usr/sbin/sshd"


def why_not() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare", "rsync", "ssh", "ssh-keygen", _SSHD):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    name = f"try{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=30, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=30, check=False)
    return f"ip netns: {made.stderr.strip()}" if made.returncode else None


@dataclass(frozen=True)
class TwoHosts:
    """The running hosts; `folder` is seen by all."""

    folder: Path
    mark: str  # in the names of the namespaces

    @property
    def key(self) -> Path:
        """The private key with which root may log in to both."""
        return self.folder / "key"

    def home(self, host: str) -> Path:
        """The home folder of root on a host, or of the user of the laptop."""
        return self.folder / host / "home"

    def laptop(self, *command: str, **environment: str) -> list[str]:
        """The command line that runs a command on the laptop."""
        settings = {"HOME": str(self.home("laptop")), "COLUMNS": "120", **environment}
        return [
            "ip",
            "netns",
            "exec",
            f"{self.mark}laptop",
            "env",
            *(f"{k}={v}" for k, v in settings.items()),
            *command,
        ]


@contextmanager
def start_two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """The hosts, below `folder`; nothing of them is left afterwards."""
    hosts = TwoHosts(folder, f"t{os.getpid()}")
    before = _notes_of_ray()
    with ExitStack() as stack:
        stack.callback(_remove_new_notes, before)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(hosts.key))
        for name in ("laptop", *ADDRESSES):
            hosts.home(name).mkdir(parents=True)
            _run("ip", "netns", "add", hosts.mark + name)
            stack.callback(_run, "ip", "netns", "del", hosts.mark + name)
            _run("ip", "-n", hosts.mark + name, "link", "set", "lo", "up")
        _join(hosts)
        for name in ADDRESSES:
            process = _start_host(hosts, name)
            stack.callback(_end, process)
        for address in ADDRESSES.values():
            _wait_for_sshd(hosts, address)
        yield hosts


def _join(hosts: TwoHosts) -> None:
    """A bridge on the laptop, and a cable from it to each host."""
    laptop = hosts.mark + "laptop"
    _run("ip", "-n", laptop, "link", "add", "hub", "type", "bridge")
    for name, address in ADDRESSES.items():
        host = hosts.mark + name
        _run("ip", "-n", laptop, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host)
        _run("ip", "-n", laptop, "link", "set", name, "master", "hub", "up")
        _run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", host, "link", "set", "eth0", "up")
    _run("ip", "-n", laptop, "addr", "add", f"{_LAPTOP}/24", "dev", "hub")
    _run("ip", "-n", laptop, "link", "set", "hub", "up")
    for name in ADDRESSES:  # it leads nowhere, but from it Ray knows the host's address, as it does on a real network
        _run("ip", "-n", hosts.mark + name, "route", "add", "default", "via", _LAPTOP)


def _start_host(hosts: TwoHosts, name: str) -> subprocess.Popen[bytes]:
    """A shell with process id 1 in namespaces of its own, in which sshd runs.

    Ray's folder /tmp/ray is its own too, and so is the list of users: ssh takes the home folder from there, not from $HOME.
    """
    folder = hosts.folder / name
    (folder / "ray").mkdir()
    shutil.copy(hosts.key, folder / "host_key")
    (folder / "host_key").chmod(0o600)
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress {ADDRESSES[name]}:22\nHostKey {folder}/host_key\nAuthorizedKeysFile {hosts.key}.pub\nStrictModes no\n"
        f"UsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\n"
    )
    users = re.sub(
        r"^(root:.*):[^:\n]*:", rf"\1:{hosts.home(name)}:", Path("/etc/passwd").read_text(), count=1, flags=re.M
    )
    (folder / "passwd").write_text(users)
    script = (
        f"hostname {name}; mkdir -p /run/sshd /tmp/ray; mount --bind {folder}/ray /tmp/ray; "
        f"mount --bind {folder}/passwd /etc/passwd; {_SSHD} -D -e -f {config} & wait"
    )
    log = (folder / "sshd.log").open("wb")
    with log:
        return subprocess.Popen(
            ["ip", "netns", "exec", hosts.mark + name, "unshare", "--uts", "--ipc", "--pid", "--mount", "--fork", "--kill-child",
             "--mount-proc", "bash", "-c", script], stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def _wait_for_sshd(hosts: TwoHosts, address: str) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(
        hosts.laptop("bash", "-c", f"exec 3<>/dev/tcp/{address}/22"), capture_output=True, timeout=30, check=False
    ).returncode:
        assert time.monotonic() < deadline, f"no sshd at {address}"
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # its child, process 1 of the host, goes with it, and with that all others
    process.wait(30)


def _notes_of_ray() -> set[Path]:
    """What `ray up` keeps on the laptop: connections, prepared launcher files, the state of clusters of given machines."""
    return {*Path("/tmp").glob("ray_ssh_*"), *Path("/tmp").glob("ray-config-*"), *Path("/tmp/ray").glob("cluster-*")}


def _remove_new_notes(before: set[Path]) -> None:
    for path in _notes_of_ray() - before:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
