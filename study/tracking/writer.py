"""The process that writes a study's W&B runs while its trials train: it follows their folders.

Started by mirror.py as `python -m study.tracking.writer STUDY MODE PROJECT ROOT`. It reads from stdin the ids of the trials to
follow, a line each, and at last `finish`; the end of stdin without it means that the driver was interrupted or is gone. It
says {"warning": text} and {"done": text} on stdout, one JSON object a line. Whatever happens here, training does not notice.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from analysis.records.study_folder import StudyFolder, StudyFolderError
from trainable.errors import first_line

FINISH = "finish"
LOOK_INTERVAL_S = 1.0
NICENESS = 5  # training comes first
INTERRUPT_LIMIT_S = 10.0  # nobody may be left who could end this process


@dataclass
class _Orders:
    """What the driver has said so far."""

    trials: dict[str, None] = field(default_factory=dict)  # those to follow, in their order
    closing: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)  # closing, and nobody waits for pictures

    def read(self) -> None:
        """Read until the end, beside the work: an interruption must not wait for it."""
        for line in sys.stdin:
            if line.strip() == FINISH:
                self.closing.set()
                return
            self.trials[line.strip()] = None
        limit = threading.Timer(INTERRUPT_LIMIT_S, os._exit, (1,))
        limit.daemon = True
        limit.start()
        self.hurry.set()
        self.closing.set()


def main() -> None:
    """Serve the driver until it closes or goes away."""
    folder, mode, project, root = sys.argv[1:]
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides when this process ends
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what wandb prints must not get between the answers
    orders = _Orders()
    threading.Thread(target=orders.read, daemon=True).start()
    try:
        _serve(StudyFolder(Path(folder)), mode, project, Path(root), orders, answers)
    except Exception as error:  # noqa: BLE001 - of whatever kind, the driver is told
        _say(answers, warning=f"its process ended: {type(error).__name__}: {first_line(error)}")
    os._exit(0)  # what could be written is; wandb's exit hooks would wait for the rest


def _serve(folder: StudyFolder, mode: str, project: str, root: Path, orders: _Orders, answers: TextIO) -> None:
    """Follow the trials until the end. Says so when W&B is not to be had, and ends."""
    from study.tracking.connection import Connection, WandbUnavailable
    from study.tracking.run_writer import RunWriter

    connection = Connection("online" if mode == "online" else "offline", project, folder.read_study().name, root)
    writer = RunWriter(folder, connection, orders.hurry)

    def update(trial_id: str) -> None:
        if writer.update(trial_id):
            del orders.trials[trial_id]

    def attempt(action: Callable[..., object], *arguments: str) -> None:
        try:
            action(*arguments)
        except StudyFolderError as error:  # these records cannot be read; others can
            _say(answers, warning=str(error))

    try:
        closing = False
        while not closing:
            closing = orders.closing.wait(LOOK_INTERVAL_S)
            for trial_id in list(orders.trials):
                attempt(update, trial_id)
        for trial_id in writer.open_trials:
            attempt(writer.finish, trial_id)
        if not orders.hurry.is_set():
            attempt(writer.write_summary)
        connection.close()
    except WandbUnavailable as error:
        _say(answers, warning=str(error))
    else:
        _say(answers, done=writer.describe())


def _say(answers: TextIO, **answer: str) -> None:
    with contextlib.suppress(OSError):  # the driver is gone
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
