"""The Ray that trials run on: one of our own on this machine's loopback, or a running cluster, joined and left again.

Nothing of a joined cluster is changed or stopped; when the driver leaves it, its own trials end and nothing else. Ray is
imported only when one of the two is entered. Knows nothing of studies.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from study.cluster.head import ClusterUnusableError, find_auth_mode, find_head
from study.cluster.nodes import read_cluster
from study.plan.gpus import VISIBLE_DEVICES, Gpu, claimed_gpus
from study.plan.resources import (
    Machine,
    ResourceError,
    TrialResources,
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
_JOB_CONFIGURATION = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray's Jobs API, which ships the working folder itself


class LocalRay:
    """A Ray of our own on this machine, begun when trials first need it and kept for those of later phases; a context manager.

    On a cluster, which was joined before, there is nothing to begin.
    """

    def __init__(self, machine: Machine, resources: TrialResources, *, verbose: bool) -> None:
        self._machine, self._resources, self._verbose = machine, resources, verbose
        self._begun = ExitStack()
        self._runs = machine.is_cluster

    def begin(self) -> None:
        """Have it run. Errors: ResourceError."""
        if not self._runs:
            self._begun.enter_context(_local_ray(self._machine, self._resources, verbose=self._verbose))
            self._runs = True

    def end(self) -> None:
        """End it and all that runs on it; its GPUs are given back."""
        self._begun.close()
        self._runs = self._machine.is_cluster

    def __enter__(self) -> LocalRay:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextmanager
def _local_ray(machine: Machine, resources: TrialResources, *, verbose: bool) -> Iterator[None]:
    """A Ray on loopback without a dashboard; gone afterwards. Errors: ResourceError.

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

    The packages of this program travel with the driver, so that every node runs the same code. Errors: ClusterUnusableError
    within a minute.
    """
    _set_defaults(_QUIET if verbose else {**_QUIET, **_NO_NEWS})
    head = find_head(address)
    os.environ["RAY_AUTH_MODE"] = find_auth_mode(address, head)
    import ray
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")  # Ray was imported to find the head, and has read that variable then
    try:
        with _kept_sigterm():
            ray.init(address=head, runtime_env=_runtime_environment(), **_logging(verbose))
    except Exception as error:  # Ray has no class of its own for what can go wrong here
        ray.shutdown()
        raise ClusterUnusableError(
            f"--address {address}: the cluster cannot be joined ({first_line(error)})"
        ) from error
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


def _runtime_environment() -> dict[str, Any]:
    """The packages of this program, unless Ray's Jobs API has shipped them already."""
    if _JOB_CONFIGURATION in os.environ:
        return {}
    root = Path(__file__).parents[2]
    return {
        "py_modules": [str(root / name) for name in ("study", "analysis", "trainable")],
        "excludes": ["__pycache__"],
    }


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
