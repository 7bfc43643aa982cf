"""A Slurm of one node for tests: munged, slurmctld and slurmd of the system's packages, in namespaces of their own.

They see no process, no network and no /tmp/ray of the machine: Slurm's ports are free there, and what ends all of Ray on the node
ends nothing else. When the process that made the namespace ends, so does everything in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "nsenter", "ip")
_CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=requeue_setup_env_fail
MinJobAge=3600
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={num_cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""
_START = """
set -e
ip link set lo up
ip link add cable type veth peer name cable-end && ip addr add 10.78.0.1/24 dev cable
ip link set cable up && ip link set cable-end up && ip route add default dev cable  # Slurm finds no address, not even its own, where loopback is all there is
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray
munged --force --key-file={folder}/munge.key --socket={folder}/munge.socket --pid-file={folder}/munged.pid \
    --log-file={folder}/munged.log --seed-file={folder}/munge.seed
slurmctld -i
slurmd
echo up
sleep infinity  # no exec: this shell buries the processes whose parents have gone
:
"""


def why_not() -> str | None:
    """Why there can be no Slurm here; None where there can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"{', '.join(missing)} not installed" if missing else None


@dataclass(frozen=True)
class Slurm:
    """The running Slurm; `folder` holds its logs."""

    folder: Path
    process_id: int  # of the first process in the namespaces

    def run(self, *command: str, cwd: Path | None = None, **environment: str) -> str:
        """What a command prints that runs on the node as a user would; it must succeed."""
        settings = {**_environment(self.folder), **environment}
        done = subprocess.run(
            ["nsenter", "--target", str(self.process_id), "--mount", "--net", "--pid", "env", "-C", str(cwd or self.folder), *command],
            env=settings, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout.strip()

    def wait_for(self, job: str, states: str, timeout_s: float = 240.0) -> str:
        """The job's state once it is one of `states`."""
        deadline = time.monotonic() + timeout_s
        while (
            state := self.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")
        ) not in states.split():
            assert time.monotonic() < deadline, f"{state}{self.logs()}"
            time.sleep(0.5)
        return state

    def logs(self) -> str:
        """The ends of all logs, for a failure's message."""
        return "".join(f"\n{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in self.folder.glob("*.log"))


@contextmanager
def start_slurm(folder: Path, num_cpus: int = 2) -> Iterator[Slurm]:
    """A Slurm whose files are below `folder`; nothing of it runs afterwards."""
    for name in ("state", "spool", "home"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    host = os.uname().nodename
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(host=host, folder=folder, num_cpus=num_cpus))
    outside = subprocess.Popen(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", _START.format(folder=folder)],
        env=_environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert outside.stdout is not None
        said = outside.stdout.readline()
        slurm = Slurm(folder, _child_of(outside.pid))
        assert said == "up\n", said + outside.stdout.read() + slurm.logs()
        deadline = time.monotonic() + 60
        while "idle" not in slurm.run("sinfo", "--noheader", "--format=%T"):
            assert time.monotonic() < deadline, slurm.logs()
            time.sleep(0.3)
        yield slurm
    finally:
        outside.kill()  # and with it all in the namespace
        outside.wait(30)


def _child_of(process_id: int) -> int:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return int(text.split()[0])


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "STUDY_", "WANDB_", "SLURM_"))
    }
    return {**kept, "SLURM_CONF": str(folder / "slurm.conf"), "HOME": str(folder / "home"), "PATH": _path()}


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"
