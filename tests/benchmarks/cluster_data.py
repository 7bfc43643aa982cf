"""How the images reach the nodes: bytes over the wire and time, for a node with an address of its own. `--help`; needs root.

The second node runs in a network namespace; what passes its virtual cable is counted by the kernel. Several trials' worth of
tasks ask for the data set there, at once and once more; one transfer per node is what docs/clusters.md promises.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.ray_cluster import RayCluster
from trainable.data.image_data import ImageArray

NAMESPACE, INSIDE, OUTSIDE = "rc-data", "10.201.7.2", "10.201.7.1"
CABLE = "rc-data0"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster_data")
    parser.add_argument("--trials", type=int, default=4, help="tasks that ask for the data at once")
    options = parser.parse_args()
    _lay_cable()
    try:
        with RayCluster(num_cpus=1, object_store_bytes=600_000_000, exposed=True) as cluster:
            address = _own_address()
            port = cluster.address.rpartition(":")[2]
            cluster.add_node(
                num_cpus=options.trials, wrapper=("ip", "netns", "exec", NAMESPACE), address=f"{address}:{port}"
            )
            os.environ.update(cluster.environment)  # before Ray is imported, which reads its token then
            _measure(f"{address}:{port}", options.trials)
    finally:
        _run("ip", "netns", "del", NAMESPACE)


def _measure(address: str, num_trials: int) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    far = next(node["NodeID"] for node in ray.nodes() if node["NodeManagerAddress"] == INSIDE)  # type: ignore[no-untyped-call]
    place = NodeAffinitySchedulingStrategy(far, soft=False)
    images = np.random.default_rng(0).integers(0, 256, (60_000, 32, 32, 3), dtype=np.uint8)  # as large as CIFAR-10

    use: Any = ray.remote(_use).options(num_cpus=1, scheduling_strategy=place)
    ray.get([use.remote(images[:1]) for _ in range(num_trials)])  # the workers are up
    started = time.perf_counter()
    reference = ray.put(images)
    print(f"driver puts {images.nbytes / 1e6:.1f} MB into its object store in {time.perf_counter() - started:.2f} s")
    for label in ("first", "again"):
        before, started = _passed_bytes(), time.perf_counter()
        answers = ray.get([use.remote(reference) for _ in range(num_trials)])
        seconds = time.perf_counter() - started
        assert {answer[0] for answer in answers} == {INSIDE}
        assert {answer[1] for answer in answers} == {int(images[-1, -1, -1, -1])}
        print(
            f"{label}: {num_trials} tasks on the far node, {(_passed_bytes() - before) / 1e6:.1f} MB, {seconds:.2f} s"
        )
    ray.shutdown()


def _use(data: ImageArray) -> tuple[str, int]:
    """What a trial does with the images first: look at them, on its node."""
    import ray

    return str(ray.util.get_node_ip_address()), int(data[-1, -1, -1, -1])  # type: ignore[no-untyped-call]


def _own_address() -> str:
    """The address at which the head listens, found as Ray finds it: nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def _lay_cable() -> None:
    _run("ip", "netns", "del", NAMESPACE, check=False)
    _run("ip", "netns", "add", NAMESPACE)
    _run("ip", "link", "add", CABLE, "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
    _run("ip", "addr", "add", f"{OUTSIDE}/30", "dev", CABLE)
    _run("ip", "link", "set", CABLE, "up")
    inside = ("ip", "netns", "exec", NAMESPACE, "ip")
    _run(*inside, "addr", "add", f"{INSIDE}/30", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "route", "add", "default", "via", OUTSIDE)


def _passed_bytes() -> int:
    """Bytes that went into the namespace so far."""
    return int(Path(f"/sys/class/net/{CABLE}/statistics/tx_bytes").read_text())


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True, timeout=30)


if __name__ == "__main__":
    main()
