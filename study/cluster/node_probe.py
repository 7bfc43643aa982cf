"""Before the first trial: can every node of a cluster run trials of this study? Names the node that cannot, and why.

Each node imports this program, says its versions, reads the driver's lock in the study folder and writes a file there,
which the driver reads. A node that joins later is held to the same by its first trial (`require_study`).
"""

from __future__ import annotations

import platform
import secrets
import socket
from importlib import metadata

from study.cluster.head import ClusterUnusableError
from study.cluster.nodes import list_nodes
from study.storage.trial_storage import TrialStorage

_ANSWERED_WITHIN_S = 60.0


class UnfitNodeError(OSError):
    """A node that cannot run trials of this study, which is no failure of a trial; the message says why."""


def check_nodes(storage: TrialStorage, driver_token: str) -> None:
    """Probe all nodes that are alive. Errors: ClusterUnusableError naming the first node that cannot run trials."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in list_nodes()}
    probe = ray.remote(num_cpus=0, max_retries=0)(probe_node)
    files = {node: f".probe-{secrets.token_hex(8)}" for node in names}
    asked = {
        node: probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            storage, driver_token, versions(), files[node]
        )
        for node in names
    }
    try:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWERED_WITHIN_S)
        for node, answer in asked.items():
            try:
                if problem := ray.get(answer, timeout=0):
                    raise ClusterUnusableError(f"node {names[node]}: {problem}")
                if storage.read(files[node]) != files[node].encode():
                    raise ClusterUnusableError(
                        f"what node {names[node]} wrote to {storage} is not seen here: --results must be on storage that all nodes share"
                    )
            except ray.exceptions.GetTimeoutError:
                raise ClusterUnusableError(
                    f"node {names[node]} does not answer within {_ANSWERED_WITHIN_S:g} s"
                ) from None
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1][:300]
                raise ClusterUnusableError(f"node {names[node]} cannot run this program ({reason})") from error
    finally:
        for name in files.values():
            storage.delete(name)


def probe_node(storage: TrialStorage, driver_token: str, wanted_versions: str, file_name: str) -> str | None:
    """Runs on a node: why its trials could not run there, None where they can; leaves a file with its own name as content."""
    try:
        storage.write(file_name, file_name.encode())  # first, because its error says most
    except OSError as error:
        return f"{error.strerror or error} at {storage}: --results must be on storage that all nodes can read and write"
    try:
        require_versions(wanted_versions)
        require_study(storage, driver_token)
    except OSError as error:
        return str(error)
    return None


def versions() -> str:
    """What must be the same on all nodes for trials to be comparable."""
    return f"Python {platform.python_version()}, torch {metadata.version('torch')}"


def require_versions(wanted: str) -> None:
    """Raise UnfitNodeError where this node has other versions than the driver."""
    if (found := versions()) != wanted:
        raise UnfitNodeError(f"{socket.gethostname()} has {found}, the driver {wanted}; they must be the same")


def require_study(storage: TrialStorage, driver_token: str) -> None:
    """Raise UnfitNodeError where the study, as this node sees it, is not the one that the driver works on, or OSError."""
    if storage.read_driver(driver_token).get("token") != driver_token:
        raise UnfitNodeError(
            f"{socket.gethostname()} does not see the driver's study at {storage}: --results must be on storage that "
            "all nodes can read and write"
        )
