"""Stopping a study and letting it go on, from the page: for its owner only, who brings the page's token.

Only what a driver on this machine has noted of itself counts: its lock names its process, the study's last attempt its command.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import StudyInfo
from study.storage.folder_lock import LOCK_FILE, read_lock
from study.storage.study_lock import has_process

LOG_FILE = "driver.log"
_START = ["python", "-m", "study.run"]
_ROOT = Path(__file__).parents[2]


class ControlError(Exception):
    """The study cannot be stopped or go on from here; the message says why and what to do."""


def stop(folder: StudyFolder) -> None:
    """Interrupt the driver as Ctrl-C does: its trials save first. Errors: ControlError."""
    holder = read_lock(folder.path / LOCK_FILE)
    lives = has_process(holder) if holder else False
    if lives is None:
        raise ControlError(
            f"its driver is not on this machine but on {holder.get('host')}: study stop {folder.path.name}"
        )
    if not lives:
        raise ControlError("no driver works on this study")
    os.kill(int(holder["pid"]), signal.SIGINT)


def find_command(folder: StudyFolder, info: StudyInfo) -> tuple[list[str], str]:
    """The arguments of study.run that go on with the study, and the folder that they were given in. Errors: ControlError."""
    attempt: dict[str, Any] = info.attempts[-1] if info.attempts else {}
    command, started_in = attempt.get("command"), attempt.get("folder")
    if not isinstance(command, list) or command[:3] != _START or not all(isinstance(word, str) for word in command):
        raise ControlError("the study does not say by which command it was started")
    if (
        not isinstance(started_in, str)
        or not Path(started_in).is_absolute()
        or not Path(started_in).is_dir()
        or folder.path.stat().st_uid != os.getuid()
    ):
        raise ControlError(f"it was not started here: {shlex.join(command)}")
    if any((above / "study.json").exists() for above in (Path(started_in), *Path(started_in).parents)):
        raise ControlError(f"{started_in}: is part of a study, and nothing is started in one: {shlex.join(command)}")
    return [argument for argument in command[3:] if argument != "--serve"], started_in


def describe_command(folder: StudyFolder, info: StudyInfo) -> str:
    """What `go_on` starts and where, or why it starts nothing."""
    try:
        arguments, started_in = find_command(folder, info)
    except (ControlError, OSError) as error:
        return str(error)
    return f"{shlex.join([*_START, *arguments])}\nin {started_in}"


def go_on(folder: StudyFolder, info: StudyInfo) -> None:
    """Start the study's own command again, which prints to driver.log in its folder. Errors: ControlError.

    The driver itself imports nothing from the folder that the command was given in; a model of the user's lies there, and workers
    look there, so whoever confirms this has been shown both.
    """
    arguments, started_in = find_command(folder, info)
    if (holder := read_lock(folder.path / LOCK_FILE)) and has_process(holder):
        raise ControlError("a driver works on this study already")
    paths = [str(_ROOT), *map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    with os.fdopen(_open_log(folder.path / LOG_FILE), "ab") as log:
        subprocess.Popen(
            [sys.executable, *_START[1:], *arguments], cwd=started_in, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}, start_new_session=True,
        )  # fmt: skip


def _open_log(path: Path) -> int:
    """A descriptor that appends to a regular file. Errors: ControlError for a link or a pipe."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise ControlError(f"{path}: cannot be written ({error.strerror})") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ControlError(f"{path}: is no regular file")
