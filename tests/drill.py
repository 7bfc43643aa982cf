"""An operator's drill on one machine: two studies side by side on a head started by hand, and what can happen to them in a week.

    python -m tests.drill [--keep DIR]

It starts a head on loopback with a token, as docs/clusters.md says, and uses it as a user elsewhere would: `study submit`, `status`,
`stop`, `pull`. In between it ends a trial's worker, a study's driver and the head with all that runs on it (SIGKILL). At the end
every trial is held against the same trial run without Ray: bit for bit, times aside. Prints the transcript; ends with an
AssertionError where something is not as it should be. Takes about three minutes on two free cores. Ends only its own processes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import list_states
from tests.support.alone import run_alone
from tests.support.faults import command_line, compare_trials, wait_until
from tests.support.head_by_hand import BIN, REPOSITORY, Head, start_head

GRID = """
name = "{name}"
seeds = [0, 1, 2]
[base]
dataset = "synthetic"
epochs = 150
width = 1
train_limit = 128
test_limit = 20
noise_scale_every_epochs = 0
instrument_every_steps = 50
log_every_steps = 2
learning_rate = {learning_rate}
[grid]
batch_size = [32, 64]
"""
RATES = {"monday": 0.05, "tuesday": 0.1}


class Drill:
    """What was typed and said so far, in a folder of its own, and the head that is there now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        self.lines: list[str] = []
        self.head: Head | None = None
        for name, rate in RATES.items():
            (folder / f"{name}.toml").write_text(GRID.format(name=name, learning_rate=rate))

    def say(self, text: str) -> None:
        """Print a line of the transcript, without what is this run's alone."""
        for private, public in (
            (str(self.folder), "/drill"),
            (self.head.url if self.head else "-", "http://127.0.0.1:8265"),
        ):
            text = text.replace(private, public)
        self.lines.append(text)
        print(text, flush=True)

    def study(
        self, *arguments: str, expect: int = 0, contains: str = "", token: str | None = None, shown: int = 0
    ) -> str:
        """Type `study ARGUMENTS` as a user elsewhere; what it prints, which must end with this status and hold this pattern.

        With `shown` only so many of its last lines come into the transcript.
        """
        assert self.head is not None
        self.say(f"$ study {' '.join(arguments)}")
        done = subprocess.run(
            [str(BIN / "study"), *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**self.head.client_environment(token), "STUDY_CLUSTER": self.head.url}, text=True, timeout=600, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        for line in ["...", *lines[-shown:]] if shown else lines:
            self.say(line)
        assert done.returncode == expect, f"status {done.returncode}, not {expect}"
        assert re.search(contains, done.stdout), f"{contains!r} was not said"
        if expect:
            self.say(f"(status {expect})")
        return done.stdout

    def submit(self, name: str, *more: str, expect: int = 0, contains: str = "") -> str:
        """Submit one of the two studies, or go on with it."""
        wanted = (
            "--grid",
            str(self.folder / f"{name}.toml"),
            "--results",
            str(self.results),
            "--checkpoint-interval",
            "1",
        )
        return self.study("submit", *wanted, *more, expect=expect, contains=contains)

    def folder_of(self, name: str) -> StudyFolder:
        """Where a study lies."""
        return StudyFolder(self.results / name)

    def await_epochs(self, name: str, more: int = 2) -> None:
        """Return when the study has saved so many more epochs."""
        before = self.num_epochs(name)
        wait_until(lambda: self.num_epochs(name) >= before + more, 900)

    def num_epochs(self, name: str) -> int:
        """The epochs that all trials of a study have saved."""
        study = self.folder_of(name)
        return sum(state.epochs_completed for state in list_states(study)) if study.trials.is_dir() else 0

    def await_state(self, name: str, holds: Callable[[dict[str, object]], bool]) -> None:
        """Return when what `study status NAME --json` tells is so."""
        assert self.head is not None
        deadline = time.monotonic() + 900
        while not holds(told := json.loads(self.head.client("study.status", name, "--json").stdout)):
            assert time.monotonic() < deadline, told
            time.sleep(1)

    def kill(self, what: str, process: psutil.Process) -> None:
        """SIGKILL, with a line that says to whom."""
        self.say(f"# kill -9 of {what}")
        process.kill()
        process.wait(30)

    def processes(self) -> list[psutil.Process]:
        """All processes of the head, its studies and their trials."""
        assert self.head is not None
        return psutil.Process(self.head.process.pid).children(recursive=True)


def run_drill(folder: Path) -> list[str]:
    """The whole drill; its transcript. Errors: AssertionError where the service does not do as it should."""
    drill = Drill(folder)
    with ExitStack() as heads:
        drill.head = first = heads.enter_context(start_head(folder / "head"))
        _look_at_the_head(drill)
        _submit_two(drill)
        _lose_a_worker(drill)
        _lose_a_driver(drill)
        _stop_and_go_on(drill)
        drill.say("# kill -9 of the head and of all that runs on it")
        first.kill()
        drill.study("status", expect=2, contains="error: ")
        drill.head = heads.enter_context(start_head(folder / "new-head", instead_of=first))
        _go_on_at_the_new_head(drill)
        _pull_and_compare(drill)
    return drill.lines


def _look_at_the_head(drill: Drill) -> None:
    """Its token's file, its listeners, and who is turned away."""
    assert drill.head is not None
    token = drill.head.home / ".ray" / "auth_token"
    drill.say(f"# the head is up; its token: mode {token.stat().st_mode & 0o777:o}; it listens on")
    listening = {
        (process.name(), found.laddr.ip)
        for process in [psutil.Process(drill.head.process.pid), *drill.processes()]
        for found in process.net_connections(kind="tcp")
        if found.status == psutil.CONN_LISTEN
    }
    addresses = {address for _, address in listening}
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, listening
    drill.say(f"#   {', '.join(sorted(addresses))} alone: {', '.join(sorted({name for name, _ in listening}))}")
    drill.study("status", token="", expect=2, contains="error: .*token")
    drill.study("status", token="0" * 32, expect=2, contains="error: .*token")
    drill.study("status", contains="no study was submitted")


def _submit_two(drill: Drill) -> None:
    missing = ("--set", "dataset=cifar10", "--data", "/nowhere", "--name", "refused")
    drill.submit("monday", *missing, expect=2, contains="error: study 'refused' has not begun: .*/nowhere")
    unwritable = ("--results", "/proc/results", "--name", "refused")
    drill.submit("monday", *unwritable, expect=2, contains="error: study 'refused' has not begun: .*/proc")
    drill.submit("monday", contains="state    running")
    drill.submit("tuesday", contains="state    running")
    drill.submit("monday", expect=2, contains="runs on .* already")
    for name in RATES:
        drill.await_epochs(name)
    drill.study("status", contains=r"monday +running +\d of 6 .*\n.*tuesday +running +\d of 6")


def _lose_a_worker(drill: Drill) -> None:
    """Tune lets a trial work in a folder of its name."""
    trials = [state.trial_id for state in list_states(drill.folder_of("monday")) if not state.finished]
    workers = [process for process in drill.processes() if "ray::ImplicitFunc" in " ".join(command_line(process))]
    [worker] = [process for process in workers if any(trial in process.cwd() for trial in trials)]
    drill.kill("the worker of a trial of monday", worker)
    drill.await_state("monday", lambda told: _counted(told, "num_retries") == 1)
    drill.study("status", "monday", contains="1 attempt failed, 1 tried again; last: ")


def _counted(told: dict[str, object], field: str) -> object:
    progress = told["progress"]
    return progress.get(field) if isinstance(progress, dict) else None


def _lose_a_driver(drill: Drill) -> None:
    [driver] = [
        process for process in drill.processes()
        if "study.service.remote" in (line := command_line(process)) and f"{drill.folder / 'tuesday.toml'}" in line
    ]  # fmt: skip
    drill.kill("the driver of tuesday", driver)
    drill.await_state("tuesday", lambda told: not told["active"])
    drill.study(
        "status", "tuesday", expect=1, contains="reason +its driver was killed .*\ngo on +the same study submit"
    )
    drill.submit("tuesday", contains="state    running")


def _stop_and_go_on(drill: Drill) -> None:
    drill.study("stop", "monday", contains="saved|saving")
    drill.study("status", "monday", contains="interrupted")
    drill.submit("monday", contains="state    running")
    for name in RATES:
        drill.await_epochs(name)


def _go_on_at_the_new_head(drill: Drill) -> None:
    drill.say("# a new head at the same address, which knows nothing of the old one")
    drill.study("status", contains="no study was submitted")
    for name in RATES:
        drill.submit(name, contains="state    running")
    drill.study("status", "--watch", shown=3, contains=r"monday +done +6 of 6.*\n.*tuesday +done +6 of 6")
    drill.study("status", contains=r"monday +done +6 of 6.*\n.*tuesday +done +6 of 6")


def _pull_and_compare(drill: Drill) -> None:
    drill.study("pull", "monday", "--to", str(drill.folder / "pulled"), contains="final test accuracy, %")
    pulled = StudyFolder(drill.folder / "pulled").read_records("epochs")
    assert pulled.equals(drill.folder_of("monday").read_records("epochs")), "what was pulled is what lies there"
    for name, runs in (("monday", 3), ("tuesday", 3)):
        log = (drill.folder_of(name).path / "driver.log").read_text()
        assert log.count("\n--- ") + log.startswith("--- ") == runs, "every run is in the study's own log"
        reference = run_alone(drill.folder / f"{name}.toml", drill.folder / "alone" / name)
        differences = compare_trials(reference, drill.folder_of(name))
        assert differences == []
        attempts = [state.attempts for state in list_states(drill.folder_of(name))]
        drill.say(
            f"# {name}: {sum(attempts)} attempts, log of {runs} runs kept; records and weights are those of the same trials without Ray"
        )


def main() -> int:
    """Run the drill; 0 where all went as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description="An operator's drill on this machine.")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="a new folder to work in, which is kept (default: a temporary one)"
    )
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True)
        run_drill(options.keep.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="drill-") as temporary:
            run_drill(Path(temporary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
