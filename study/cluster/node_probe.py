"""Before the first trial: can every node of a cluster run trials of this study? Names the node that cannot, and why.

Each node imports this program, says its versions, reads the driver's lock in the study folder and writes a file there,
which the driver reads. A node that joins later is held to the same by its first trial (`require_study`).
"""

from __future__ import annotations

import platform
import secrets
import socket
from dataclasses import dataclass
from importlib import metadata

from study.cluster.head import ClusterError
from study.cluster.nodes import list_nodes
from study.storage.trial_storage import TrialStorage

_ANSWERED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What one node says; `problem` is None where its trials could read and write the study folder."""

    host: str
    versions: str
    problem: str | None


class UnfitNodeError(OSError):
    """A node that cannot run trials of this study, which is no failure of a trial; the message says why."""


def check_nodes(storage: TrialStorage, driver_token: str) -> None:
    """Probe all nodes that are alive. Errors: ClusterError naming the first node that cannot run trials."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in list_nodes()}
    probe = ray.remote(num_cpus=0, max_retries=0)(probe_node)
    files = {node: f".probe-{secrets.token_hex(8)}" for node in names}
    asked = {
        node: probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            storage, driver_token, files[node]
        )
        for node in names
    }
    try:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWERED_WITHIN_S)
        for node, answer in asked.items():
            try:
                _check_answer(ray.get(answer, timeout=0), storage, files[node])
            except ray.exceptions.GetTimeoutError:
                raise ClusterError(f"node {names[node]} does not answer within {_ANSWERED_WITHIN_S:g} s") from None
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[-1][:300]
                raise ClusterError(f"node {names[node]} cannot run this program ({reason})") from error
    finally:
        for name in files.values():
            storage.delete(name)


def probe_node(storage: TrialStorage, driver_token: str, file_name: str) -> Answer:
    """Runs on a node: see that the study is the driver's, and leave a file with the host's name there."""
    try:
        storage.write(file_name, socket.gethostname().encode())  # first, because its error says most
    except OSError as error:
        problem: str | None = (
            f"{error.strerror or error} at {storage}: --results must be on storage that all nodes can read and write"
        )
    else:
        problem = _find_problem(storage, driver_token)
    if problem is not None:
        problem = f"node {socket.gethostname()}: {problem}"
    return Answer(socket.gethostname(), versions(), problem)


def _find_problem(storage: TrialStorage, driver_token: str) -> str | None:
    try:
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
        raise UnfitNodeError(_describe_mismatch(socket.gethostname(), found, wanted))


def _describe_mismatch(host: str, found: str, driver: str) -> str:
    return f"{host} has {found}, the driver {driver}; they must be the same"


def require_study(storage: TrialStorage, driver_token: str) -> None:
    """Raise UnfitNodeError where the study, as this node sees it, is not the one that the driver works on, or OSError."""
    if storage.read_driver(driver_token).get("token") != driver_token:
        raise UnfitNodeError(
            f"{socket.gethostname()} does not see the driver's study at {storage}: --results must be on storage that "
            "all nodes can read and write"
        )


def _check_answer(answer: Answer, storage: TrialStorage, file_name: str) -> None:
    if answer.versions != versions():
        raise ClusterError(f"node {_describe_mismatch(answer.host, answer.versions, versions())}")
    if answer.problem is not None:
        raise ClusterError(answer.problem)
    if storage.read(file_name) != answer.host.encode():
        raise ClusterError(
            f"what node {answer.host} wrote to {storage} is not seen here: --results must be on storage that all nodes share"
        )
