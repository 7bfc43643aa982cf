"""The Ray that trials run on: one of our own on this machine's loopback, or a running cluster, joined and left again.

Nothing of a joined cluster is changed or stopped; when the driver leaves it, its own trials end and nothing else. Ray is
imported only when one of the two is entered. Knows nothing of studies.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from study.cluster.autoscaling import read_planned_nodes, without_running
from study.plan.gpus import VISIBLE_DEVICES, Gpu, claimed_gpus
from study.plan.resources import (
    Machine,
    Node,
    ResourceError,
    TrialResources,
    count_slots,
    is_part,
    num_gpus_used,
)  # fmt: skip
from trainable.errors import first_line

# Set before Ray is imported: none of its banners, boxes and default loggers between the user and the table.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: trials save their last epoch first
    "TUNE_GLOBAL_CHECKPOINT_S": "60",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Ray's name for it speaks of other systems, but here too it makes a local Ray use 127.0.0.1 as the node's address, and its
# servers then listen there alone. Without it they listen on all interfaces. A cluster's nodes could not find each other.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray prints what happens to nodes into the middle of the table, unless its filter of repeated lines leaves out every line.
_NO_NEWS = {"RAY_DEDUP_LOGS": "1", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
_REACHABLE_WITHIN_S = 10.0
_ANSWERED_WITHIN_S = 40.0
_JOB_CONFIGURATION = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's Jobs API, which ships the working folder itself

_QUESTION = """
import sys
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._raylet import GcsClient
versions = get_cluster_metadata(GcsClient(address=sys.argv[1]))
print(f"Ray {versions['ray_version']} on Python {versions['python_version']}")
"""


class ClusterError(Exception):
    """A cluster that cannot be joined or used; the message says why and what to do."""


@contextmanager
def local_ray(machine: Machine, resources: TrialResources, *, verbose: bool) -> Iterator[None]:
    """A Ray of our own on this machine, on loopback, without a dashboard; gone afterwards. Errors: ResourceError.

    It has the GPUs that the trials use, claimed for as long as it lives, and knows of no other.
    """
    # A token of its own: else Ray would leave one in the home folder, which may not be writable, for all clusters to come.
    _set_defaults({**_QUIET, **_LOOPBACK, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    shared = is_part(resources.gpus_per_trial)
    with claimed_gpus(machine.gpus, num_gpus_used(machine, resources), shared=shared) as gpus, _visible(gpus):
        import ray

        try:
            ray.init(
                address="local", num_cpus=machine.num_cpus, num_gpus=len(gpus), include_dashboard=False,
                **_logging(verbose),
            )  # fmt: skip
        except Exception as error:  # Ray raises the plain class where its servers take more than 30 s to start
            ray.shutdown()
            raise ResourceError(
                f"Ray did not start ({first_line(error)}); nothing is lost, the same command goes on"
            ) from error
        _silence(verbose)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _visible(gpus: Sequence[Gpu]) -> Iterator[None]:
    """Within it processes that are started see these GPUs and no others; without any, all is as it was."""
    before = os.environ.get(VISIBLE_DEVICES)
    if gpus:
        os.environ[VISIBLE_DEVICES] = ",".join(gpu.uuid for gpu in gpus)
    try:
        yield
    finally:
        if gpus and before is None:
            del os.environ[VISIBLE_DEVICES]
        elif before is not None:
            os.environ[VISIBLE_DEVICES] = before


@contextmanager
def joined_cluster(address: str, *, verbose: bool) -> Iterator[Machine]:
    """The running cluster at `address` ("auto" or HOST:PORT of its head) and what its nodes offer; left afterwards.

    The packages of this program travel with the driver, so that every node runs the same code. Errors: ClusterError
    within a minute.
    """
    _set_defaults(_QUIET if verbose else {**_QUIET, **_NO_NEWS})
    head = _find_head(address)
    os.environ["RAY_AUTH_MODE"] = _find_auth_mode(address, head)
    import ray
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")  # Ray was imported to find the head, and has read that variable then
    try:
        with _kept_sigterm():
            ray.init(address=head, runtime_env=_runtime_environment(), **_logging(verbose))
    except Exception as error:  # Ray has no class of its own for what can go wrong here
        ray.shutdown()
        raise ClusterError(f"--address {address}: the cluster cannot be joined ({first_line(error)})") from error
    _silence(verbose)
    try:
        yield read_cluster()
    finally:
        ray.shutdown()


@contextmanager
def _kept_sigterm() -> Iterator[None]:
    """Ray sets a handler of its own when it joins a cluster; who runs this driver has one already."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def read_cluster() -> Machine:
    """CPUs and GPUs of all nodes of the joined cluster that are alive now, and of those that its autoscaler may start."""
    shapes = Counter(
        (int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in list_nodes()
    )
    running = tuple(Node(cpus, gpus, count) for (cpus, gpus), count in sorted(shapes.items()))
    nodes = running + without_running(read_planned_nodes(), running)
    return Machine(
        num_cpus=sum(node.num_cpus * node.count for node in nodes),
        num_gpus=sum(node.num_gpus * node.count for node in nodes),
        nodes=nodes,
        running=running,
    )


def count_slots_now(resources: TrialResources) -> int:
    """How many such trials the joined cluster can run at the same time, with the nodes that it has now or may start."""
    return count_slots(read_cluster().nodes, resources.gpus_per_trial, resources.cpus_per_trial)


def list_nodes() -> list[dict[str, Any]]:
    """What Ray says about each node of the joined cluster that is alive."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _find_head(address: str) -> str:
    """HOST:PORT of the cluster's head, where something answers. Errors: ClusterError."""
    if "://" in address:
        raise ClusterError(
            f"--address {address}: give auto or HOST:PORT, on a node of the cluster; from elsewhere use python -m study.submit"
        )
    from ray._private import services

    try:
        head = services.canonicalize_bootstrap_address_or_die(address)
        host, _, port = head.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), _REACHABLE_WITHIN_S):
            return str(head)
    except ConnectionError as error:
        found = "no Ray cluster runs on this machine" if address == "auto" else "no Ray cluster answers there"
        raise ClusterError(f"--address {address}: {found} ({first_line(error)})") from error
    except (OSError, ValueError) as error:
        raise ClusterError(f"--address {address}: no Ray cluster answers there ({first_line(error)})") from error


def _runtime_environment() -> dict[str, Any]:
    """The packages of this program, unless Ray's Jobs API has shipped them already."""
    if _JOB_CONFIGURATION in os.environ:
        return {}
    root = Path(__file__).parents[2]
    return {
        "py_modules": [str(root / name) for name in ("study", "analysis", "trainable")],
        "excludes": ["__pycache__"],
    }


def _find_auth_mode(address: str, head: str) -> str:
    """How to authenticate at this head, found by asking it. Errors: ClusterError where it lets this driver in in no way.

    A token is used only where one is asked for: servers that ask for none cannot talk back to a driver that does, and its
    workers would be ended as those of a driver that is gone.
    """
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() or None
    if wanted not in (None, "disabled", "token"):  # a way of Ray's that is not known here
        if not _ask_head(address, head, wanted):
            raise ClusterError(f"--address {address}: the cluster refuses who comes with RAY_AUTH_MODE={wanted}")
        return wanted
    if _ask_head(address, head, "disabled"):
        if wanted == "token":
            raise ClusterError(
                f"--address {address}: RAY_AUTH_MODE is token here, but the cluster asks for none; unset it"
            )
        return "disabled"
    if wanted == "disabled":
        raise ClusterError(
            f"--address {address}: RAY_AUTH_MODE is disabled here, but the cluster asks for a token; unset it"
        )
    if _has_token() and _ask_head(address, head, "token"):
        return "token"
    reason = "the cluster refuses the token" if _has_token() else "the cluster asks for a token"
    raise ClusterError(
        f"--address {address}: {reason}; put the one it was started with into RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def _ask_head(address: str, head: str, auth_mode: str) -> bool:
    """Ask the head for its versions, in a process of its own: Ray would repeat and log each refusal for minutes.

    False where it refuses who asks. Errors: ClusterError where it runs other versions, or does not answer as a cluster's head.
    """
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _QUESTION, head], env={**os.environ, "RAY_AUTH_MODE": auth_mode},
            capture_output=True, text=True, timeout=_ANSWERED_WITHIN_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ClusterError(f"--address {address}: {head} does not answer as a Ray cluster") from None
    said = " ".join((asked.stderr + asked.stdout).split())
    if "nauthenticated" in said or "AuthenticationError" in said:
        return False
    if asked.returncode:
        raise ClusterError(f"--address {address}: {head} does not answer as a Ray cluster ({said[-200:]})")
    cluster = asked.stdout.strip().splitlines()[-1]
    own = f"Ray {metadata.version('ray')} on Python {platform.python_version()}"
    if cluster != own:
        raise ClusterError(f"--address {address}: the cluster runs {cluster}, this driver {own}; they must be the same")
    return True


def _has_token() -> bool:
    return (
        "RAY_AUTH_TOKEN" in os.environ
        or "RAY_AUTH_TOKEN_PATH" in os.environ
        or Path("~/.ray/auth_token").expanduser().exists()
    )


def _set_defaults(values: dict[str, str]) -> None:
    os.environ.update({name: value for name, value in values.items() if name not in os.environ})


def _logging(verbose: bool) -> dict[str, Any]:
    return {
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
        "configure_logging": True,
    }


def _silence(verbose: bool) -> None:
    if not verbose:
        for name in ("ray", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Tune prints the traceback of every failed attempt; we say the reason, and the traceback is in ray/*/*/error.txt.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
