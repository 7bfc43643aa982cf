"""The connection to a cluster's Jobs API, by Ray's own client: address, token, time limits, and one line for every error.

Knows jobs, not studies. Ray, which takes a second to import, is imported when a cluster is connected to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cluster.token_file import IN_HOME, VARIABLE, find_token_file, warn_if_others_can_read
from trainable.errors import first_line

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

DEFAULT_CLUSTER = "http://127.0.0.1:8265"
ANSWER_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 120.0  # of what takes the cluster longer: a package that it unpacks, a log that it sends
POLL_S = 0.5
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class ClusterError(Exception):
    """The cluster cannot be reached or does not do what was asked; the message says what and what to do."""


class Cluster:
    """A cluster that answers, at `address`; made by `connect`. Every method but check_version may raise ClusterError."""

    def __init__(self, address: str, token: str | None, client: Any) -> None:
        self.address = address
        self._token = token
        self._client = client

    def check_version(self) -> None:
        """Refuse a cluster with another Ray than this program's. Errors: ClusterError."""
        if (ours := metadata.version("ray")) != (theirs := self._client._server_ray_version):
            raise ClusterError(
                f"{self.address} runs Ray {theirs}, this program Ray {ours}; set both up from the same requirements.lock"
            )

    def submit(self, command: str, *, job: str, working_dir: Path, env: dict[str, str], note: dict[str, str]) -> None:
        """Start a shell command on the cluster in a copy of `working_dir`, as a job of this name."""
        with self._errors():
            self._client.submit_job(
                entrypoint=command,
                submission_id=job,
                runtime_env={"working_dir": str(working_dir), "env_vars": env},
                metadata=note,
            )

    def list_jobs(self) -> list[JobDetails]:
        """All jobs of the cluster that were submitted, oldest first."""
        with self._errors():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def read_job(self, job: str) -> JobDetails:
        """What the cluster knows about a job now."""
        with self._errors():
            found: JobDetails = self._client.get_job_info(job)
        return found

    def stop(self, job: str) -> None:
        """Ask a job to end: its processes get SIGTERM, and SIGKILL when they take too long."""
        with self._errors():
            self._client.stop_job(job)

    def wait(self, job: str, timeout_s: float) -> JobDetails:
        """The job once it has ended. Errors: ClusterError when it takes too long."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.read_job(job)).status.is_terminal():
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} has not ended within {timeout_s:g} s; it may still do")
            time.sleep(POLL_S)
        return found

    def forget(self, job: str) -> None:
        """Take an ended job out of the cluster's list."""
        with self._errors():
            self._client.delete_job(job)

    def read_log_end(self, name: str, node: str, num_lines: int) -> str:
        """The last lines of a file among Ray's logs of a node."""
        with self._errors():
            text: str = self._client.read_log_end(name, node, num_lines)
        return text

    def follow_log(self, job: str, *, stall_s: float | None = None) -> Iterator[str]:
        """What a job prints, as it comes, from its beginning to its end.

        Errors: ClusterError when the connection breaks, or when nothing comes for `stall_s` seconds.
        """
        with self._errors(), asyncio.Runner() as runner:
            lines: AsyncIterator[str] = self._client.tail_job_logs(job)
            while True:
                try:
                    text = runner.run(_next(lines, stall_s))
                except TimeoutError as error:
                    raise ClusterError(f"{self.address}: nothing came for {stall_s:g} s") from error
                if text is None:
                    return
                yield text

    def _errors(self) -> AbstractContextManager[None]:
        return _as_one_line(self.address, self._token)


def connect(address: str, token_file: Path | None) -> Cluster:
    """The cluster whose dashboard is at `address`. Errors: ClusterError within ANSWER_TIMEOUT_S."""
    address = _normalised(address)
    token = read_token(token_file)
    from requests import HTTPError, JSONDecodeError

    with _as_one_line(address, token):
        try:
            return Cluster(address, token, _build_client(address, token))
        except (HTTPError, JSONDecodeError, KeyError, TypeError, RuntimeError) as error:  # as Ray asks for its version
            raise ClusterError(
                f"{address}: what answers there is not the dashboard of a Ray cluster ({first_line(error)})"
            ) from error


@contextmanager
def _as_one_line(address: str, token: str | None) -> Iterator[None]:
    """Whatever Ray's client raises becomes a ClusterError of one line."""
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError, RayError

    try:
        yield
    except AuthenticationError as error:
        refusal = "the cluster refuses this token; `ray get-auth-token` on its head prints the right one"
        if token is None:
            refusal = f"the cluster asks for a token; give --token-file, RAY_AUTH_TOKEN or ~/{IN_HOME}"
        raise ClusterError(f"{address}: {refusal}") from error
    except (RayError, RuntimeError, ValueError, ClientError) as error:
        raise ClusterError(f"{address}: {first_line(error, 300)}") from error
    except OSError as error:  # also those of `requests`
        raise ClusterError(
            f"{address}: no cluster answers there ({_cause(error)}); is its head up and reachable?"
        ) from error


def _build_client(address: str, token: str | None) -> Any:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)  # Ray would take them for the address, whatever --cluster says
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's client waits for ever, and reads whole logs only: here with time limits, and the end of a log."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            timeout_s = ANSWER_TIMEOUT_S if method == "GET" else STALL_TIMEOUT_S
            return super()._do_request(method, endpoint, timeout=timeout_s, **options)

        def read_log_end(self, name: str, node: str, num_lines: int) -> str:
            query = urllib.parse.urlencode({"node_id": node, "filename": name, "lines": num_lines})
            answer = self._do_request("GET", f"/api/v0/logs/file?{query}")
            if answer.status_code != 200:
                self._raise_error(answer)
            return bytes(answer.content).decode(errors="replace")

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return Client(address, headers={"Authorization": f"Bearer {token}"} if token else {})


def read_token(token_file: Path | None) -> str | None:
    """The cluster's token from the given file, else from where Ray looks for it; None where there is none.

    Errors: ClusterError where a file that was named cannot be read or is empty.
    """
    if token_file is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token.strip()
    named = token_file is not None or bool(os.environ.get(VARIABLE))
    path = token_file or find_token_file()
    try:
        content = path.read_text().strip()
    except (OSError, ValueError) as error:
        if not named:
            return None
        raise ClusterError(f"token file {path}: cannot be read ({first_line(error)})") from error
    if named and not content:
        raise ClusterError(f"token file {path}: is empty")
    warn_if_others_can_read(path)
    return content or None


def _normalised(address: str) -> str:
    if "://" not in address:
        address = f"http://{address}"
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"--cluster {address}: give the address of the dashboard, such as {DEFAULT_CLUSTER}")
    return address.rstrip("/")


async def _next(lines: AsyncIterator[str], stall_s: float | None) -> str | None:
    """The next piece, None after the last. Errors: TimeoutError."""
    async with asyncio.timeout(stall_s):
        return await anext(lines, None)


def _cause(error: BaseException) -> str:
    """What the operating system said first, before HTTP libraries wrapped it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return first_line(error)
