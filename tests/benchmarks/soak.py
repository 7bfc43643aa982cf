"""The soak: 200 short trials while faults are injected at random every few seconds, until the study is complete.

    python -m tests.benchmarks.soak [--trials 200] [--every 2 5] [--limit 480] [--seed 0]

Faults: SIGKILL of a worker, SIGKILL of the driver, SIGINT, SIGTERM, a truncated newest checkpoint, a removed records file, a
truncated trial.json of an ended trial. The driver is started again whenever it ends before the study is complete; `--limit`
seconds after the first fault no more are injected, so that it ends. Then every trial is held against the same trial run in this
process, without Ray and undisturbed: records and weights must be the same bit for bit, times aside. Prints the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import consolidate
from study.spec.grid_file import parse_grid
from study.spec.study_spec import build_spec
from tests.support.faults import Driver, Workplace, compare_trials, states, truncate
from trainable.checkpoint import list_checkpoints
from trainable.config import trial_id
from trainable.data.data_set import load_data
from trainable.trial import Placement, run_trial
from trainable.trial_state import TrialStateError, read_state

GRID = """
name = "soak"
seeds = [{seeds}]
[base]
dataset = "synthetic"
epochs = 10
width = 1
train_limit = 128
test_limit = 20
noise_scale_every_epochs = 0
instrument_every_steps = 5
log_every_steps = 2
learning_rate = 0.05
[grid]
batch_size = [16, 32]
"""
MOST_STARTS = 100
FAULTS_IN_START = 0.2  # part of the starts in which faults begin at once; in the others when the first epoch is done


def main() -> int:
    """Run the soak; 0 where nothing was lost."""
    options = _parse()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        place = Workplace(Path(temporary), GRID.format(seeds=_seeds(options.trials)))
        started = time.monotonic()
        _run_undisturbed(place.study("undisturbed"), options.trials)
        undisturbed_s = time.monotonic() - started
        started = time.monotonic()
        faults, starts, statuses, left = _disturb(place, moments, options)
        took_s = time.monotonic() - started
        differences = compare_trials(place.study("undisturbed"), place.study("soak"))
        found = states(place.study("soak")).values()
        print(f"trials        {len(found)}, {sum(state.status == 'completed' for state in found)} completed")
        print(f"undisturbed   {undisturbed_s:.0f} s")
        print(f"with faults   {took_s:.0f} s, {starts} starts of the driver, exit statuses {dict(statuses)}")
        print(
            f"faults        {sum(faults.values())}: " + ", ".join(f"{n} x {name}" for name, n in sorted(faults.items()))
        )
        print(f"attempts      {sum(state.attempts for state in found)} for {len(found)} trials")
        print(f"left behind   {left or 'no process'}")
        print(f"lost          {differences or 'nothing: records and weights are the same bit for bit, times aside'}")
        return 1 if differences or left else 0


def _run_undisturbed(study: StudyFolder, num_trials: int) -> None:
    """The same trials, one after the other."""
    data = load_data("synthetic", None)
    grid = parse_grid(GRID.format(seeds=_seeds(num_trials)), "soak")
    for config in build_spec(grid, defaults={"precision": "fp32"}).trial_configs():
        run_trial(config, data, study.trial(trial_id(config, data.fingerprint)), Placement(num_threads=1))
    consolidate(study)


def _seeds(num_trials: int) -> str:
    return ", ".join(map(str, range(num_trials // 2)))


def _disturb(
    place: Workplace, moments: random.Random, options: argparse.Namespace
) -> tuple[Counter[str], int, Counter[int], list[str]]:
    """Start the driver until the study is complete, with faults on the way."""
    faults: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    left: list[str] = []
    first_at: float | None = None
    for starts in range(1, MOST_STARTS + 1):
        with place.start("soak", "--checkpoint-interval", "0.2", "--max-failures", "5") as driver:
            in_start = moments.random() < FAULTS_IN_START
            while driver.process.poll() is None:
                _sleep(driver, moments.uniform(*options.every))
                if not in_start and " epoch " not in driver.output:
                    continue
                first_at = first_at or time.monotonic()
                if driver.process.poll() is None and time.monotonic() - first_at < options.limit:
                    fault = moments.choice(list(FAULTS))
                    if FAULTS[fault](driver, place.study("soak"), moments):
                        faults[fault] += 1
            status = driver.wait()
            left.extend(driver.leftovers())
            statuses[status] += 1
            if "Traceback" in driver.output:
                print(driver.output, file=sys.stderr)
                raise SystemExit("a traceback")
            if status == 0:
                return faults, starts, statuses, left
    raise SystemExit(f"not complete after {MOST_STARTS} starts")


def _sleep(driver: Driver, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and driver.process.poll() is None:
        time.sleep(0.1)


def _kill_worker(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    workers = driver.workers()
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            moments.choice(workers).kill()
    return bool(workers)


def _kill_driver(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    driver.descendants()
    driver.process.kill()
    return True


def _interrupt(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    driver.descendants()
    driver.process.send_signal(moments.choice([signal.SIGINT, signal.SIGTERM]))
    return True


def _truncate_checkpoint(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    """The newest one of a trial that has another and still needs it."""
    folders = [folder for folder in study.trials.iterdir() if not _ended(folder)] if study.trials.is_dir() else []
    found = [paths[0] for folder in folders if len(paths := list_checkpoints(folder)) > 1]
    if not found:
        return False
    path = moments.choice(found)
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        if not _ended(path.parent):
            return True
        path.write_bytes(content)  # it had just been needed for the last time
    return False


def _ended(trial: Path) -> bool:
    try:
        state = read_state(trial)
    except TrialStateError:
        return True
    return state is not None and state.finished


def _remove_records(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    found = list(study.trials.glob("*/*.parquet"))
    if found:
        moments.choice(found).unlink(missing_ok=True)
    return bool(found)


def _truncate_state(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    with contextlib.suppress(OSError, TrialStateError):
        ended = [name for name, state in states(study).items() if state.finished]
        return bool(ended) and _damaged(study.trial(moments.choice(ended)) / "trial.json")
    return False


def _damaged(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        truncate(path)
        return True
    return False


FAULTS = {
    "worker killed": _kill_worker,
    "driver killed": _kill_driver,
    "driver interrupted": _interrupt,
    "checkpoint truncated": _truncate_checkpoint,
    "records removed": _remove_records,
    "trial.json truncated": _truncate_state,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.soak", description="Faults at random, nothing lost."
    )
    parser.add_argument("--trials", type=int, default=200, help="an even number of trials (default: 200)")
    parser.add_argument(
        "--every", type=float, nargs=2, default=(2.0, 5.0), metavar=("S", "S"), help="seconds between faults"
    )
    parser.add_argument(
        "--limit", type=float, default=480.0, metavar="S", help="no more faults so long after the first"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
