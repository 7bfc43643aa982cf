"""The driver's end of the W&B mirror: starts the writing process, passes messages to it, and ends it in bounded time.

Nothing here blocks or raises while trials run. What goes wrong on the other side is said once, on stderr, with the
command that makes up for it. Imports neither wandb nor Ray.
"""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from analysis.records.study_folder import StudyFolder
from study.tracking.mode import Mode, choose_project

FINISH_LIMIT_S, INTERRUPT_LIMIT_S, QUIET_S = 600.0, 8.0, 3.0


class Mirror:
    """One process that writes the W&B runs of the study in `folder`; a context manager that leaves no process behind.

    `project` is that of the study so far where it is None; `shown` says where the study lies, if not in `folder`.
    """

    def __init__(self, folder: StudyFolder, mode: Mode, project: str | None = None, shown: str | None = None) -> None:
        self._folder, self._mode, self._project, self._shown = folder, mode, project, shown or str(folder.path)
        self._process: subprocess.Popen[str] | None = None
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._warned = self._passing_on = False

    @property
    def started(self) -> bool:
        """Whether there is a process to post to: not when the mode is off."""
        return self._process is not None

    def start(self) -> None:
        """Start the process, unless the mode is off. The study's study.json must be there."""
        if self._mode == "off":
            return
        try:
            self._start()
        except OSError as error:
            self.warn(f"no process could be started for it ({error})")

    def _start(self) -> None:
        project = choose_project(self._folder, self._project)
        self._scratch = tempfile.TemporaryDirectory(prefix="wandb-", ignore_cleanup_errors=True)  # wandb may write yet
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        # What wandb writes for an online run is of no use once it was sent.
        root = self._folder.path if self._mode == "offline" else Path(self._scratch.name)
        source = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "study.tracking.writer", str(self._folder.path), self._mode, project, str(root)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            start_new_session=True,  # Ctrl-C is the driver's
        )  # fmt: skip
        self._passing_on = True
        for work in (self._send, self._listen):
            self._threads.append(threading.Thread(target=work, args=(self._process,), daemon=True))
            self._threads[-1].start()

    def post_epoch(self, trial_id: str, epoch: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> None:
        """A trial reported an epoch."""
        self._post({"trial": trial_id, "epoch": dict(epoch), "steps": list(steps)})

    def post_end(self, trial_id: str) -> None:
        """A trial ended; how is in its state on disk."""
        self._post({"trial": trial_id, "ended": True})

    def warn(self, reason: str) -> None:
        """Say once that the mirror is not complete, and how to make up for it."""
        if not self._warned:
            self._warned = True
            command = shlex.join(["python", "-m", "study.tracking", "sync", self._shown])
            print(f"warning: W&B: {reason}\nThe study goes on; this makes its runs later:  {command}", file=sys.stderr)

    def finish(self) -> None:
        """Let the writer do all that is left, the summary run included, until Ctrl-C.

        A server that takes nothing ends the writer after 30 s; ten minutes bound what nobody foresaw.
        """
        if self._process is None:
            return
        self._outbox.put({"close": "finish"})
        try:
            if not _ends_within(self._process, QUIET_S):
                print("W&B: writing the rest (Ctrl-C leaves it)", flush=True)
                _ends_within(self._process, FINISH_LIMIT_S)
        except KeyboardInterrupt:
            self.warn("stopped before everything was written")
        self._close(self._process)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        """Without `finish` before it: an interruption, which waits for what is being written, not for what is left."""
        if self._process is not None:
            self._outbox.put({"close": "interrupt"})
            try:
                _ends_within(self._process, INTERRUPT_LIMIT_S)
            finally:  # a second Ctrl-C ends the wait
                self._close(self._process)

    def _close(self, process: subprocess.Popen[str]) -> None:
        """Leave nothing behind: wandb-core ends with the process that started it."""
        self._process = None
        if process.poll() is None:
            self.warn("it took too long to write everything")
            process.kill()
            process.wait()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join(1.0)
        self._errors.close()
        self._scratch.cleanup()

    def _post(self, message: dict[str, Any]) -> None:
        if self._passing_on:  # else the writer has given up, and messages would only pile up
            self._outbox.put(message)

    def _send(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                for message in iter(self._outbox.get, None):
                    pipe.write(json.dumps(message) + "\n")
                    pipe.flush()
        except OSError:
            pass  # the writer has ended; it said why, or its exit status does
        except (TypeError, ValueError) as error:
            self.warn(f"a report could not be passed on ({error})")
        self._passing_on = False

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            if "warning" in answer:
                self.warn(answer["warning"])
            else:
                print(f"W&B           {answer['done']}", flush=True)
        if status := process.wait():
            self.warn(f"its process ended: {_last_line(self._errors) or f'exit status {status}'}")


def _ends_within(process: subprocess.Popen[str], limit_s: float) -> bool:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
