"""The driver's end of the W&B mirror: starts the writing process, names the trials that run, and ends it in bounded time.

Nothing here blocks or raises while trials run. What goes wrong on the other side is said once, on stderr, with the
command that makes up for it. Imports neither wandb nor Ray.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from analysis.records.study_folder import StudyFolder
from study.tracking.mode import Mode, choose_project
from study.tracking.writer import FINISH

FINISH_LIMIT_S, INTERRUPT_LIMIT_S, QUIET_S = 600.0, 8.0, 3.0


class Mirror:
    """One process that writes the W&B runs of the study in `folder`; a context manager that leaves no process behind.

    `project` is that of the study so far where it is None; `shown` says where the study lies, if not in `folder`.
    """

    def __init__(self, folder: StudyFolder, mode: Mode, project: str | None = None, shown: str | None = None) -> None:
        self._folder, self._mode, self._project, self._shown = folder, mode, project, shown or str(folder.path)
        self._process: subprocess.Popen[str] | None = None
        self._warned = False

    @property
    def started(self) -> bool:
        """Whether there is a process that writes runs: not when the mode is off."""
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
        # What wandb writes for an online run is of no use once it was sent.
        root = self._folder.path if self._mode == "offline" else Path(self._scratch.name)
        source = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "study.tracking.writer", str(self._folder.path), self._mode, project, str(root)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,  # Ctrl-C is the driver's
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def follow(self, trial_id: str) -> None:
        """A trial starts, or goes on: from now on its run follows what is in its folder."""
        self._tell(trial_id)

    def warn(self, reason: str) -> None:
        """Say once that the mirror is not complete, and how to make up for it."""
        if not self._warned:
            self._warned = True
            command = shlex.join(["study", "sync", self._shown])
            print(f"warning: W&B: {reason}\nThe study goes on; this makes its runs later:  {command}", file=sys.stderr)

    def finish(self) -> None:
        """Let the writer do all that is left, the summary run included, until Ctrl-C.

        A server that takes nothing ends the writer after 30 s; ten minutes bound what nobody foresaw.
        """
        if self._process is None:
            return
        self._tell(FINISH)
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
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                _ends_within(self._process, INTERRUPT_LIMIT_S)
            finally:  # a second Ctrl-C ends the wait
                self._close(self._process)

    def _tell(self, line: str) -> None:
        """Write a line to the process without ever waiting for it; one that has ended has said why."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        try:
            os.write(pipe, f"{line}\n".encode())
        except BlockingIOError:
            self.warn("its process has stopped reading")
        except OSError:
            pass

    def _close(self, process: subprocess.Popen[str]) -> None:
        """Leave nothing behind: wandb-core ends with the process that started it."""
        self._process = None
        if process.poll() is None:
            self.warn("it took too long to write everything")
            process.kill()
            process.wait()
        self._listener.join(1.0)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        self._scratch.cleanup()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            if "warning" in answer:
                self.warn(answer["warning"])
            else:
                print(f"W&B           {answer['done']}", flush=True)
        if status := process.wait():
            self.warn(f"its process ended with exit status {status}")


def _ends_within(process: subprocess.Popen[str], limit_s: float) -> bool:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return False
    return True
