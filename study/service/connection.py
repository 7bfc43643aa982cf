"""The connection to a cluster's Jobs API: address, token, time limits, and one line for everything that can go wrong.

Knows jobs, not studies. Ray, which takes seconds to import, is needed only where a job is submitted or followed; all else
is asked over the REST interface.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

DEFAULT_CLUSTER = "http://127.0.0.1:8265"
ANSWER_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 120.0
ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
_TOKEN_FILE = Path(".ray") / "auth_token"
_POLL_S = 0.5
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


class ClusterError(Exception):
    """The cluster cannot be reached or does not do what was asked; the message says what and what to do."""


class Cluster:
    """A cluster that answers, at `address`; made by `connect`."""

    def __init__(self, address: str, token: str | None, ray_version: str) -> None:
        self.address = address
        self.ray_version = ray_version
        self._token = token
        self._made: Any = None

    def check_version(self) -> None:
        """Refuse a cluster with another Ray than this program's. Errors: ClusterError."""
        ours = metadata.version("ray")
        if ours != self.ray_version:
            raise ClusterError(
                f"{self.address} runs Ray {self.ray_version}, this program Ray {ours}; "
                "set both up from the same requirements.lock"
            )

    def submit(self, command: str, *, job: str, working_dir: Path, env: dict[str, str], note: dict[str, str]) -> None:
        """Start a shell command on the cluster in a copy of `working_dir`, as a job of this name. Errors: ClusterError."""
        with self._errors():
            self._client().submit_job(
                entrypoint=command,
                submission_id=job,
                runtime_env={"working_dir": str(working_dir), "env_vars": env},
                metadata=note,
            )

    def list_jobs(self) -> list[dict[str, Any]]:
        """All jobs of the cluster that were submitted, oldest first, as its REST interface describes them.

        Errors: ClusterError.
        """
        jobs = [job for job in json.loads(self._request("GET", "/api/jobs/")) if job.get("submission_id")]
        return sorted(jobs, key=lambda job: job.get("start_time") or 0)

    def read_job(self, job: str) -> dict[str, Any]:
        """What the cluster knows about a job now. Errors: ClusterError."""
        return dict(json.loads(self._request("GET", f"/api/jobs/{job}")))

    def stop(self, job: str) -> None:
        """Ask a job to end: its processes get SIGTERM, and SIGKILL when they take too long. Errors: ClusterError."""
        self._request("POST", f"/api/jobs/{job}/stop")

    def wait(self, job: str, timeout_s: float) -> dict[str, Any]:
        """The job once it has ended. Errors: ClusterError when it takes too long."""
        deadline = time.monotonic() + timeout_s
        while (found := self.read_job(job))["status"] not in ENDED:
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} has not ended within {timeout_s:g} s; it may still do")
            time.sleep(_POLL_S)
        return found

    def forget(self, job: str) -> None:
        """Take an ended job out of the cluster's list. Errors: ClusterError."""
        self._request("DELETE", f"/api/jobs/{job}")

    def read_log_end(self, job: str, node: str, num_lines: int) -> str:
        """The last lines of what a job on this node has printed. Errors: ClusterError."""
        query = {"node_id": node, "filename": f"job-driver-{job}.log", "lines": num_lines}
        return self._request("GET", f"/api/v0/logs/file?{urllib.parse.urlencode(query)}").decode(errors="replace")

    def follow_log(self, job: str, *, stall_s: float | None = None) -> Iterator[str]:
        """What a job prints, as it comes, from its beginning to its end.

        Errors: ClusterError when the connection breaks, or when nothing comes for `stall_s` seconds.
        """
        with self._errors(), asyncio.Runner() as runner:
            lines: AsyncIterator[str] = self._client().tail_job_logs(job)
            while True:
                try:
                    text = runner.run(_next(lines, stall_s))
                except TimeoutError as error:
                    raise ClusterError(f"{self.address}: nothing came for {stall_s:g} s") from error
                if text is None:
                    return
                yield text

    def _request(self, method: str, path: str) -> bytes:
        try:
            return _ask(method, f"{self.address}{path}", self._token)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise ClusterError(_describe_refusal(self.address, error.code)) from error
            raise ClusterError(f"{self.address}: {error.read(300).decode(errors='replace') or error}") from error
        except OSError as error:
            raise ClusterError(f"{self.address}: no answer any more ({_first_line(error)})") from error

    def _client(self) -> Any:
        if self._made is None:
            for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
                os.environ.pop(name, None)  # Ray would take them for the address, whatever --cluster says
            from ray.job_submission import JobSubmissionClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
            self._made = JobSubmissionClient(self.address, headers=headers)
        return self._made

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever Ray's client raises, as one line."""
        from ray.exceptions import RayError

        try:
            yield
        except (RayError, RuntimeError, OSError) as error:  # those of `requests` are OSErrors
            raise ClusterError(f"{self.address}: {_first_line(error)}") from error


def connect(address: str, token_file: Path | None) -> Cluster:
    """The cluster whose dashboard is at `address`. Errors: ClusterError within ANSWER_TIMEOUT_S."""
    address = _normalised(address)
    token = read_token(token_file)
    try:
        answer = json.loads(_ask("GET", f"{address}/api/version", token))
        version = str(answer["ray_version"])
    except urllib.error.HTTPError as error:
        raise ClusterError(_describe_refusal(address, error.code, has_token=token is not None)) from error
    except OSError as error:
        raise ClusterError(
            f"{address}: no cluster answers there ({_first_line(error)}); is its head up and reachable?"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{address}: what answers there is not the dashboard of a Ray cluster") from error
    return Cluster(address, token, version)


def read_token(token_file: Path | None) -> str | None:
    """The cluster's token from the given file, else from where Ray looks for it; None where there is none.

    Errors: ClusterError where a file that was named cannot be read or is empty.
    """
    variable = os.environ.get("RAY_AUTH_TOKEN_PATH")
    named = token_file or (Path(variable) if variable else None)
    if token_file is None and (token := os.environ.get("RAY_AUTH_TOKEN")):
        return token.strip()
    path = named or Path.home() / _TOKEN_FILE
    try:
        content = path.read_text().strip()
    except (OSError, ValueError) as error:
        if named is None:
            return None
        raise ClusterError(f"token file {path}: cannot be read ({_first_line(error)})") from error
    if named is not None and not content:
        raise ClusterError(f"token file {path}: is empty")
    return content or None


def _normalised(address: str) -> str:
    if "://" not in address:
        address = f"http://{address}"
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(f"--cluster {address}: give the address of the dashboard, such as {DEFAULT_CLUSTER}")
    return address.rstrip("/")


def _ask(method: str, url: str, token: str | None) -> bytes:
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:
        return bytes(answer.read())


def _describe_refusal(address: str, code: int, *, has_token: bool = True) -> str:
    if code == 401 or (code == 403 and not has_token):
        return f"{address}: the cluster asks for a token; give --token-file, RAY_AUTH_TOKEN or ~/{_TOKEN_FILE}"
    if code == 403:
        return f"{address}: the cluster refuses this token; `ray get-auth-token` on its head prints the right one"
    return f"{address}: what answers there is not the dashboard of a Ray cluster (status {code})"


async def _next(lines: AsyncIterator[str], stall_s: float | None) -> str | None:
    """The next piece, None after the last. Errors: TimeoutError."""
    async with asyncio.timeout(stall_s):
        return await anext(lines, None)


def _first_line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason) or type(error).__name__).splitlines()[0][:300]
