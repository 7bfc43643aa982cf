"""The process that holds a study's W&B runs: messages on stdin, one JSON object a line, what it has to say on stdout.

Started by mirror.py as `python -m study.tracking.writer STUDY MODE PROJECT ROOT`. It reads
{"trial": id, "epoch": record, "steps": records}, {"trial": id, "ended": true} and at last {"close": "finish"} or
{"close": "interrupt"}; the end of stdin without one means that the driver is gone, and counts as an interruption. It says
{"warning": text} and {"done": text}. Whatever happens here, training does not notice.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from analysis.records.study_folder import StudyFolder, StudyFolderError

if TYPE_CHECKING:
    from study.tracking.run_writer import RunWriter

NICENESS = 5  # training comes first
ORPHAN_LIMIT_S = 10.0

_Inbox = queue.SimpleQueue[dict[str, Any] | None]


def main() -> None:
    """Serve the driver until it closes or goes away."""
    folder, mode, project, root = sys.argv[1:]
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides when this process ends
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what wandb prints must not get between the answers
    inbox: _Inbox = queue.SimpleQueue()
    hurry = threading.Event()
    threading.Thread(target=_read_messages, args=(inbox, hurry), daemon=True).start()
    try:
        done = _serve(StudyFolder(Path(folder)), mode, project, Path(root), inbox, hurry, answers)
    except Exception:  # noqa: BLE001 - the driver is told by the exit status, and wandb's exit hooks could hang
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    if done:
        _say(answers, done=done)
    answers.flush()
    sys.stderr.flush()
    os._exit(0)  # what could be written is; wandb's exit hooks would wait for the rest


def _serve(
    folder: StudyFolder, mode: str, project: str, root: Path, inbox: _Inbox, hurry: threading.Event, answers: TextIO
) -> str:
    """Handle messages until the end; returns what was done, or nothing when W&B is not to be had."""
    from study.tracking.connection import Connection, WandbUnavailable
    from study.tracking.run_writer import RunWriter

    connection = Connection("online" if mode == "online" else "offline", project, folder.read_study().name, root)
    writer = RunWriter(folder, connection, hurry)

    def attempt(action: Callable[[], object]) -> None:
        try:
            action()
        except StudyFolderError as error:  # these records cannot be read; others can
            _say(answers, warning=str(error))

    try:
        while (message := inbox.get()) is not None and not hurry.is_set():
            attempt(partial(_handle, writer, message))
        for trial_id in writer.open_trials:
            attempt(partial(writer.finish, trial_id))
        if not hurry.is_set():
            attempt(writer.write_summary)
        connection.close()
    except WandbUnavailable as error:
        _say(answers, warning=str(error))
        return ""
    return writer.describe()


def _handle(writer: RunWriter, message: dict[str, Any]) -> None:
    if "epoch" in message:
        writer.add_epoch(message["trial"], message["epoch"], message["steps"])
    elif "ended" in message:
        writer.finish(message["trial"])


def _read_messages(inbox: _Inbox, hurry: threading.Event) -> None:
    """Fill the inbox beside the work, so that an interruption overtakes what still waits there."""
    for line in sys.stdin:
        if not line.endswith("\n"):
            break  # the driver was killed in the middle of it
        message = json.loads(line)
        if "close" in message:
            if message["close"] == "interrupt":
                hurry.set()
            inbox.put(None)
            return
        inbox.put(message)
    hurry.set()
    inbox.put(None)
    limit = threading.Timer(ORPHAN_LIMIT_S, os._exit, (1,))  # nobody is left who could end this process
    limit.daemon = True
    limit.start()


def _say(answers: TextIO, **answer: str) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
