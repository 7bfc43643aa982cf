"""Studies under fault injection: start real drivers, find their processes, compare what is left with an undisturbed study.

Used by the fault suite and by the soak benchmark. Ends only processes that it started itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from analysis.records.study_folder import StudyFolder
from analysis.tables import build_tables
from trainable.records.checkpoint import list_checkpoints, read_checkpoint
from trainable.records.trial_state import TrialState, read_state

REPOSITORY = Path(__file__).parents[2]
PLANTED_SECRET = "planted-secret-58c0ffee"
EPOCH_TIMES = ("train_time_s", "eval_time_s", "instrument_time_s", "images_per_s", "peak_memory_bytes")
_EPOCH_LINE = re.compile(r"^\d\d:\d\d:\d\d  (.* seed \d+)  epoch (\d+)/\d+ ", re.MULTILINE)


class Driver:
    """A running `python -m study.run` with its output so far; a context manager that leaves no process behind."""

    def __init__(
        self, workplace: Path, arguments: tuple[str, ...], environment: Mapping[str, str], wrapper: tuple[str, ...] = ()
    ) -> None:
        self._output: list[str] = []
        self._new_output = threading.Condition()
        self._known: dict[int, psutil.Process] = {}
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "study.run", *arguments],
            cwd=workplace, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, umask=0o077,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._new_output:
                self._output.append(line)
                self._new_output.notify_all()

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        with self._new_output:
            return "".join(self._output)

    def wait_for(self, pattern: str, timeout_s: float = 400.0) -> None:
        """Return when the output matches a regular expression. Errors: AssertionError when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        with self._new_output:
            while not re.search(pattern, "".join(self._output), re.MULTILINE):
                assert time.monotonic() < deadline, f"{pattern!r} never came:\n{''.join(self._output)}"
                assert self._reader.is_alive(), f"ended without {pattern!r}:\n{''.join(self._output)}"
                self._new_output.wait(0.5)

    def wait(self, timeout_s: float = 500.0) -> int:
        """Its exit status."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None
        self._reader.join(timeout=30)
        return status

    def descendants(self) -> list[psutil.Process]:
        """All processes it has started, as far as they were seen by this call or an earlier one, that still live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._known[process.pid] = process
        return [process for process in self._known.values() if _lives(process)]

    def workers(self) -> list[psutil.Process]:
        """The processes in which its trials run; Ray names the one of a Tune function so."""
        return [process for process in self.descendants() if "ray::ImplicitFunc" in " ".join(command_line(process))]

    def worker_of(self, trial: str) -> psutil.Process:
        """The process that runs this trial now: Tune lets it work in a folder of the trial's name."""
        found = [process for process in self.workers() if trial in _working_folder(process)]
        assert len(found) == 1, f"{len(found)} workers of {trial}:\n{self.output}"
        return found[0]

    def leftovers(self, timeout_s: float = 90.0) -> list[str]:
        """What still runs of it some time after its end: Ray's agents take seconds to notice that their node is gone."""
        deadline = time.monotonic() + timeout_s
        while (alive := self.descendants()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [" ".join(command_line(process))[:80] for process in alive]

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.descendants()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        for process in self.descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass
class Workplace:
    """A folder with a grid file, a home and results, in which drivers are started."""

    folder: Path
    grid: str
    results: str = "results"
    environment: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()  # a command that runs the driver, e.g. in a namespace
    undisturbed_s: float = 0.0  # how long an undisturbed study takes on this machine, as busy as it is

    def __post_init__(self) -> None:
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        (self.folder / "grid.toml").write_text(self.grid)

    def start(
        self, name: str, *arguments: str, environment: Mapping[str, str] | None = None, report: bool = False
    ) -> Driver:
        """A driver of the study `name`, with a secret in its environment, one thread per trial, and no report unless asked for."""
        complete = {
            **os.environ, "HOME": str(self.folder / "home"), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1",
            "WANDB_API_KEY": PLANTED_SECRET, **self.environment, **(environment or {}),
        }  # fmt: skip
        return Driver(
            self.folder,
            (
                "--grid", "grid.toml", "--results", self.results, "--name", name, "--wandb", "off",
                *([] if report else ["--no-report"]), *arguments,
            ),
            complete,
            self.wrapper,
        )  # fmt: skip

    def run(self, name: str, *arguments: str, expect: int = 0) -> str:
        """A driver to its end; its output."""
        with self.start(name, *arguments) as driver:
            status = driver.wait()
            assert status == expect, driver.output
            assert "Traceback" not in driver.output, driver.output
            return driver.output

    def study(self, name: str) -> StudyFolder:
        """Its study folder."""
        return StudyFolder(self.folder / self.results / name)


def states(study: StudyFolder) -> dict[str, TrialState]:
    """The states of all trials, by id."""
    found = {path.name: read_state(path) for path in sorted(study.trials.iterdir())}
    return {name: state for name, state in found.items() if state is not None}


def compare_studies(reference: StudyFolder, other: StudyFolder) -> list[str]:
    """How the second study differs from the first, times aside; empty where records, tables and weights are the same."""
    differences = compare_trials(reference, other)
    if not (expected := _comparison(reference)).equals(_comparison(other)):
        differences.append(f"another comparison table:\n{expected}\n{_comparison(other)}")
    return differences


def compare_trials(reference: StudyFolder, other: StudyFolder) -> list[str]:
    """How trials and gathered records differ, bit for bit: every epoch, step and layer record, weights and optimizers."""
    differences = []
    expected, found = states(reference), states(other)
    for name in expected.keys() | found.keys():
        one, two = expected.get(name), found.get(name)
        if one is None or two is None or (one.status, one.epochs_completed) != (two.status, two.epochs_completed):
            differences.append(
                f"trial {name}: {one and (one.status, one.epochs_completed)}, {two and (two.status, two.epochs_completed)}"
            )
        elif not _same_checkpoint(reference.trial(name), other.trial(name)):
            differences.append(f"trial {name}: other weights")
    for kind in ("epochs", "steps", "layers"):
        if not _records(reference, kind).equals(_records(other, kind)):
            differences.append(f"other {kind} records")
    return differences


def count_epochs(output: str) -> Counter[tuple[str, int]]:
    """How often a driver has reported each epoch of each trial."""
    return Counter((name, int(epoch)) for name, epoch in _EPOCH_LINE.findall(output))


def repeated_epochs(outputs: list[str]) -> int:
    """Epochs that were reported more than once by these drivers together."""
    total = sum((count_epochs(output) for output in outputs), Counter[tuple[str, int]]())
    return sum(total.values()) - len(total)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[str | None]:
    """A tmpfs of this size on `folder`; yields None, or why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        problem = mounted.stderr.strip() or "mount failed" if mounted.returncode else None
    except OSError as error:
        problem = str(error)
    try:
        yield problem
    finally:
        if problem is None:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, timeout=30, check=False)


def fill_disk(folder: Path) -> Path:
    """Leave no byte on the disk of `folder`; returns the file that takes the room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return ballast


def truncate(path: Path, part: float = 0.5) -> None:
    """Cut a file, as a crash of a disk does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def shared_memory() -> set[str]:
    """The names of all segments of shared memory."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def end_group(driver: Driver, number: signal.Signals) -> None:
    """A signal to the driver's whole process group, as a terminal sends Ctrl-C."""
    os.killpg(driver.process.pid, number)


def foreign_listeners(processes: Sequence[psutil.Process]) -> list[str]:
    """The addresses beyond loopback on which these processes listen; they must listen somewhere."""
    listening = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            connections = process.net_connections(kind="inet")
            listening += [found.laddr for found in connections if found.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3, "Ray's servers were not found"
    return [f"{ip}:{port}" for ip, port in listening if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _records(study: StudyFolder, kind: str) -> pd.DataFrame:
    table: pa.Table = pq.read_table(study.records(kind))
    frame: pd.DataFrame = table.drop_columns([name for name in table.column_names if name in EPOCH_TIMES]).to_pandas()
    return frame


def _comparison(study: StudyFolder) -> pd.DataFrame:
    """The comparison table without what is measured in time or memory."""
    table = build_tables(study, ["comparison"])["comparison"].frame
    return table[[name for name in table.columns if not re.search(r"time|_s_|_s$|images_per_s|memory|hour", name)]]


def _same_checkpoint(one: Path, two: Path) -> bool:
    try:
        first, second = (read_checkpoint(list_checkpoints(folder)[0]) for folder in (one, two))
    except ValueError:  # damaged
        return False
    return (
        first.epoch == second.epoch
        and _same(dict(first.model), dict(second.model))
        and _same(dict(first.optimizer), dict(second.optimizer))
    )


def _same(one: object, two: object) -> bool:
    """Equal bit for bit, NaNs included."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and one.numpy().tobytes() == two.numpy().tobytes()
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    return one == two


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    """Its arguments; none where it is gone or a zombie."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _working_folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""
