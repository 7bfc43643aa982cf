"""The head of a running cluster, before Ray joins it: where it listens, what it runs and how it lets a driver in."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata

from study.cluster.token_file import VARIABLE, find_token_file, warn_if_others_can_read
from trainable.errors import first_line

_REACHABLE_WITHIN_S = 10.0
_ANSWERED_WITHIN_S = 40.0
_QUESTION = """
import sys
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._raylet import GcsClient
versions = get_cluster_metadata(GcsClient(address=sys.argv[1]))
print(f"Ray {versions['ray_version']} on Python {versions['python_version']}")
"""


class ClusterUnusableError(Exception):
    """A cluster that cannot be joined or used; the message says why and what to do."""


def find_head(address: str) -> str:
    """HOST:PORT of the cluster's head, where something answers. Errors: ClusterUnusableError."""
    if "://" in address:
        raise ClusterUnusableError(
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
        raise ClusterUnusableError(f"--address {address}: {found} ({first_line(error)})") from error
    except (OSError, ValueError) as error:
        raise ClusterUnusableError(
            f"--address {address}: no Ray cluster answers there ({first_line(error)})"
        ) from error


def find_auth_mode(address: str, head: str) -> str:
    """How to authenticate at this head, found by asking it. Errors: ClusterUnusableError where it lets this driver in in no way.

    A token is used only where one is asked for: servers that ask for none cannot talk back to a driver that does, and its
    workers would be ended as those of a driver that is gone.
    """
    wanted = os.environ.get("RAY_AUTH_MODE", "").lower() or None
    if wanted not in (None, "disabled", "token"):  # a way of Ray's that is not known here
        if not _ask_head(address, head, wanted):
            raise ClusterUnusableError(
                f"--address {address}: the cluster refuses who comes with RAY_AUTH_MODE={wanted}"
            )
        return wanted
    if _ask_head(address, head, "disabled"):
        if wanted == "token":
            raise ClusterUnusableError(
                f"--address {address}: RAY_AUTH_MODE is token here, but the cluster asks for none; unset it"
            )
        return "disabled"
    if wanted == "disabled":
        raise ClusterUnusableError(
            f"--address {address}: RAY_AUTH_MODE is disabled here, but the cluster asks for a token; unset it"
        )
    if _has_token() and _ask_head(address, head, "token"):
        if "RAY_AUTH_TOKEN" not in os.environ:
            warn_if_others_can_read(find_token_file())
        return "token"
    reason = "the cluster refuses the token" if _has_token() else "the cluster asks for a token"
    raise ClusterUnusableError(
        f"--address {address}: {reason}; put the one it was started with into RAY_AUTH_TOKEN or ~/.ray/auth_token"
    )


def _ask_head(address: str, head: str, auth_mode: str) -> bool:
    """Ask the head for its versions, in a process of its own: Ray would repeat and log each refusal for minutes.

    False where it refuses who asks. Errors: ClusterUnusableError where it runs other versions, or does not answer as a cluster's head.
    """
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _QUESTION, head], env={**os.environ, "RAY_AUTH_MODE": auth_mode},
            capture_output=True, text=True, timeout=_ANSWERED_WITHIN_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ClusterUnusableError(f"--address {address}: {head} does not answer as a Ray cluster") from None
    said = " ".join((asked.stderr + asked.stdout).split())
    if "nauthenticated" in said or "AuthenticationError" in said:
        return False
    if asked.returncode:
        raise ClusterUnusableError(f"--address {address}: {head} does not answer as a Ray cluster ({said[-200:]})")
    cluster = asked.stdout.strip().splitlines()[-1]
    own = f"Ray {metadata.version('ray')} on Python {platform.python_version()}"
    if cluster != own:
        raise ClusterUnusableError(
            f"--address {address}: the cluster runs {cluster}, this driver {own}; they must be the same"
        )
    return True


def _has_token() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or VARIABLE in os.environ or find_token_file().exists()
