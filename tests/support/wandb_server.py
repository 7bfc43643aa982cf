"""A W&B server on loopback that answers what the real wandb asks while it writes runs, and keeps what it was sent."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class ServedRun:
    """One run as the server has it; `num_overwritten` counts history rows that were sent twice."""

    history: list[str] = field(default_factory=list)
    num_overwritten: int = 0
    summary: str = "{}"
    config: str = "{}"
    group: str | None = None
    exit_code: int | None = None
    files: set[str] = field(default_factory=set)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, parsed."""
        return [json.loads(row) for row in self.history]

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration without W&B's own part."""
        return {name: entry["value"] for name, entry in json.loads(self.config).items() if name != "_wandb"}


class WandbServer:
    """Serves on `url` while it is open; `outage` makes it refuse (a status), or wait for ever (`silence`)."""

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.refuse_with: int | None = None
        self.silent = False
        self._closed = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> WandbServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, key: str = KEY) -> dict[str, str]:
        """What wandb needs to know to find this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": key}

    def wait_while_silent(self) -> None:
        while self.silent and not self._closed.is_set():
            time.sleep(0.05)

    def answer_query(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer; nothing for what does not matter here."""
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "Viewer": lambda _: {
                "viewer": {"id": "V", "username": "me", "entity": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
            },
            "UpsertBucket": self._upsert,
            "RunResumeStatus": self._resume_status,
            "CreateRunFiles": self._create_files,
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "CreateArtifact": lambda _: {
                "createArtifact": {"artifact": {"id": "A", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}}
            },
        }  # fmt: skip
        return answers[name](variables) if name in answers else {}

    def stream(self, run_id: str, content: dict[str, Any]) -> None:
        """Take in a part of a run's file stream."""
        run = self.runs[run_id]
        files = content.get("files", {})
        if part := files.get("wandb-history.jsonl"):
            offset, lines = part["offset"], part["content"]
            assert offset <= len(run.history), "rows are missing"
            run.num_overwritten += min(len(run.history) - offset, len(lines))
            run.history[offset : offset + len(lines)] = lines
        if part := files.get("wandb-summary.json"):
            run.summary = part["content"][-1]
        if content.get("complete"):
            run.exit_code = content.get("exitcode")

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        is_new = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], ServedRun())
        run.config = variables.get("config") or run.config
        run.group = variables.get("groupName") or run.group
        project = {"id": "P", "name": variables["project"], "entity": {"id": "E", "name": "me"}}
        bucket = _bucket(variables["name"], run) | {"description": "", "sweepName": "", "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = None
        if run is not None:
            bucket = _bucket(variables["name"], run) | {
                "summaryMetrics": run.summary, "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]",
                "historyTail": json.dumps(run.history[-1:]), "tags": [], "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }  # fmt: skip
        return {"model": {"id": "P", "name": "p", "entity": {"id": "E", "name": "me"}, "bucket": bucket}}

    def _create_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.runs[variables["run"]].files |= set(variables["files"])
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}


def _bucket(name: str, run: ServedRun) -> dict[str, Any]:
    return {
        "id": f"B{name}", "name": name, "displayName": name, "config": run.config, "historyLineCount": len(run.history),
    }  # fmt: skip


def _handler(served: WandbServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                return  # wandb went away

        def do_GET(self) -> None:
            self._answer({})

        def do_PUT(self) -> None:
            self._read()
            self._answer({})

        def do_POST(self) -> None:
            content = json.loads(self._read())
            if served.refuse_with is not None:
                self._answer({"errors": [{"message": "user is not logged in"}]}, served.refuse_with)
            elif self.path == "/graphql":
                name = content.get("operationName") or content["query"].split("(")[0].split()[1]
                self._answer({"data": served.answer_query(name, content.get("variables") or {})})
            else:
                served.stream(self.path.split("/")[-2], content)
                self._answer({})

        def _read(self) -> bytes:
            served.wait_while_silent()
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
