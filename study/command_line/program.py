"""What a command calls itself: as the user called it, so that a line that is printed can be typed."""

from __future__ import annotations

import sys
from pathlib import Path


def program_name(command: str) -> str:
    """`study COMMAND` or `python -m study COMMAND` where this process was started so, else `python -m study.COMMAND`."""
    if started_as_module("study"):
        return f"python -m study {command}"
    return f"study {command}" if Path(sys.argv[0]).name == "study" else f"python -m study.{command}"


def started_as_module(package: str) -> bool:
    """True where this process is `python -m PACKAGE`."""
    return Path(sys.argv[0]).parts[-2:] == (package, "__main__.py")
