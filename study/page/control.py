"""Stopping a study and letting it go on, from the page: for its owner only, who brings the page's token.

Only what a driver on this machine has noted of itself counts: its lock names its process, the study's last attempt its command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from analysis.records.study_folder import StudyFolder, StudyInfo
from study.storage.folder_lock import LOCK_FILE, read_lock
from study.storage.study_lock import has_process

LOG_FILE = "driver.log"
_START = ["python", "-m", "study.run"]


class ControlError(Exception):
    """The study cannot be stopped or go on from here; the message says why and what to do."""


def stop(folder: StudyFolder) -> None:
    """Interrupt the driver as Ctrl-C does: its trials save first. Errors: ControlError."""
    holder = read_lock(folder.path / LOCK_FILE)
    if not holder:
        raise ControlError("no driver works on this study")
    if not has_process(holder):
        raise ControlError(
            f"its driver is not on this machine but on {holder.get('host')}: study stop {folder.path.name}"
        )
    os.kill(int(holder["pid"]), signal.SIGINT)


def find_command(folder: StudyFolder, info: StudyInfo) -> tuple[list[str], str]:
    """The command that goes on with the study, and the folder that it was given in. Errors: ControlError."""
    attempt: dict[str, Any] = info.attempts[-1] if info.attempts else {}
    command, place = attempt.get("command"), attempt.get("folder")
    if not isinstance(command, list) or command[:3] != _START or not all(isinstance(word, str) for word in command):
        raise ControlError("the study does not say by which command it was started")
    if not isinstance(place, str) or not os.path.isdir(place) or folder.path.stat().st_uid != os.getuid():  # noqa: PTH112
        raise ControlError(f"it was not started here: {' '.join(command)}")
    return command[3:], place


def go_on(folder: StudyFolder, info: StudyInfo) -> None:
    """Start the study's own command again, which prints to driver.log in its folder. Errors: ControlError."""
    arguments, place = find_command(folder, info)
    if read_lock(folder.path / LOCK_FILE) and has_process(read_lock(folder.path / LOCK_FILE)):
        raise ControlError("a driver works on this study already")
    arguments = [argument for argument in arguments if argument != "--serve"]
    with (folder.path / LOG_FILE).open("ab") as log:
        subprocess.Popen(
            [sys.executable, *_START[1:], *arguments], cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
