"""A real S3 protocol server on loopback (moto's, a process of its own), with one bucket and credentials made up for the test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from analysis.records.study_folder import StudyFolder
from study.storage.object_store import RemoteFolder

SECRET = "planted-secret-0b1ec75704e"
BUCKET = "studies"


class ObjectStore:
    """A running server; `environment` is what its clients need. A context manager."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "planted-key-0b1ec7570",
            "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        self.url = f"s3://{BUCKET}"
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=file, stderr=file
            )
        self._endpoint = self.environment["AWS_ENDPOINT_URL"]
        try:
            self._wait()
            urllib.request.urlopen(urllib.request.Request(f"{self._endpoint}/{BUCKET}", method="PUT"), timeout=10)
        except BaseException:
            self.__exit__()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self._endpoint}/moto-api/", timeout=5)
                return
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def __enter__(self) -> ObjectStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(30)


def download(url: str, to: Path) -> StudyFolder:
    """Everything that lies at a URL."""
    remote = RemoteFolder(url)
    for name in remote.list():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(remote.read(name) or b"")
    return StudyFolder(to)
