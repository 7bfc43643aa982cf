"""`study COMMAND`, also `python -m study COMMAND`: every command of the project under one name. See `--help`.

A command's module is imported only when that command is called, so that `study --help` answers at once.
Exit status: that of the command; 2 where there is no such command.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from importlib import import_module

from study.command_line.program import started_as_module

# The module of each command, and what the command does.
COMMANDS = {
    "run": ("study.run", "train a grid or a search on this machine, or on the Ray cluster that it belongs to, and report on it"),
    "serve": ("study.serve", "the live page: studies as they run, in any browser"),
    "submit": ("study.submit", "run a study on a Ray cluster elsewhere"),
    "status": ("study.status", "state, progress and time left of the studies of a cluster, or of the one in a folder"),
    "logs": ("study.logs", "what a study on a cluster has printed, or prints as it runs"),
    "stop": ("study.stop", "stop a study on a cluster: its trials save first"),
    "pull": ("study.pull", "fetch the records and tables of a study on a cluster"),
    "report": ("analysis.__main__", "make tables, figures and report page of a study folder anew from its records"),
    "compare": ("analysis.__main__", "compare the cells of several studies that share data and code"),
    "sync": ("study.tracking.__main__", "make or complete the W&B runs of a study from its records"),
    "barriers": ("study.barriers", "measure loss barriers between the final weights of a study's trials"),
    "check": ("trainable.device.check", "hold what the device of this machine computes against the CPU"),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the first argument names with the other arguments; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help"):
        print(describe_commands())
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        said = f"no command {command!r}" if command else "no command given"
        print(f"error: {said}: {hint}", file=sys.stderr)
        return 2
    run: Callable[..., int] = import_module(COMMANDS[command][0]).main
    if command in ("report", "check"):
        return run(rest, program=f"{_program()} {command}")
    if command in ("compare", "sync"):
        return run([command, *rest], program=_program())
    return run(rest)


def describe_commands() -> str:
    """One line for every command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    head = [f"usage: {_program()} COMMAND ...", "", "commands:"]
    return "\n".join([*head, *lines, "", f"{_program()} COMMAND --help tells the options of a command."])


def _program() -> str:
    return "python -m study" if started_as_module("study") else "study"


if __name__ == "__main__":
    sys.exit(main())
