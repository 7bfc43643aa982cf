"""The soak: 1,000 very short trials and 200 faults at random, until the study is complete.

    python -m tests.benchmarks.soak [--trials 1000] [--faults 200] [--seed 0]

Faults: SIGKILL of a worker, SIGKILL of the driver, SIGINT, SIGTERM, a truncated newest checkpoint, a removed records file, a
truncated trial.json of an ended trial. They are spread evenly over the trials, so that a slow machine sees as many; those that end the
driver are the rarer ones, because it takes most of the time to start again. The driver is started whenever it ends before the study is
complete, and once more without faults. Then every trial is held against the same trial run in this process, without Ray and
undisturbed: records and weights must be the same bit for bit, times aside. Prints the figures.
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
from study.folder.progress_file import PROGRESS_FILE, parse_progress
from tests.support.alone import run_alone
from tests.support.faults import Driver, Workplace, compare_trials, states, truncate
from trainable.records.checkpoint import list_checkpoints
from trainable.records.trial_state import TrialStateError, read_state

GRID = """
name = "soak"
seeds = [{seeds}]
[base]
dataset = "synthetic"
epochs = {epochs}
width = 1
train_limit = 32
test_limit = 20
noise_scale_every_epochs = 0
instrument_every_steps = 5
log_every_steps = 2
learning_rate = 0.05
[grid]
batch_size = [16, 32]
"""
EPOCHS = 4
OPTIONS = ("--checkpoint-interval", "0", "--max-failures", "5")
MOST_STARTS = 100
FAULTS_IN_START = 0.2  # part of the starts in which faults begin at once; in the others when the first epoch is done
EXPECTED = (0, 130, -signal.SIGKILL, -signal.SIGTERM)  # the statuses; after any other the last lines are printed
PAUSE_S = (0.2, 1.0)  # between two faults that are both due


def main() -> int:
    """Run the soak; 0 where nothing was lost."""
    options = _parse()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        place = Workplace(Path(temporary), GRID.format(epochs=EPOCHS, seeds=_seeds(options.trials)))
        started = time.monotonic()
        run_alone(place.folder / "grid.toml", place.study("undisturbed").path)
        undisturbed_s = time.monotonic() - started
        started = time.monotonic()
        faults, starts, statuses, left = _disturb(place, moments, options)
        took_s = time.monotonic() - started
        found = states(place.study("soak")).values()
        print(f"trials        {len(found)}, {sum(state.status == 'completed' for state in found)} completed")
        print(f"undisturbed   {undisturbed_s:.0f} s")
        print(f"with faults   {took_s:.0f} s, {starts} starts of the driver, exit statuses {dict(statuses)}")
        print(
            f"faults        {sum(faults.values())}: " + ", ".join(f"{n} x {name}" for name, n in sorted(faults.items()))
        )
        print(f"attempts      {sum(state.attempts for state in found)} for {len(found)} trials")
        print(f"left behind   {left or 'no process'}")
        differences = compare_trials(place.study("undisturbed"), place.study("soak"))
        print(f"lost          {differences or 'nothing: records and weights are the same bit for bit, times aside'}")
        return 1 if differences or left else 0


def _seeds(num_trials: int) -> str:
    return ", ".join(map(str, range(num_trials // 2)))


def _disturb(
    place: Workplace, moments: random.Random, options: argparse.Namespace
) -> tuple[Counter[str], int, Counter[int], list[str]]:
    """Start the driver until the study is complete, with faults on the way."""
    faults: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    left: list[str] = []
    for starts in range(1, MOST_STARTS + 1):
        with place.start("soak", *OPTIONS) as driver:
            in_start = moments.random() < FAULTS_IN_START
            while driver.process.poll() is None:
                _sleep(driver, moments.uniform(*PAUSE_S))
                if in_start or " epoch " in driver.output:
                    due = options.faults * (_num_done(place.study("soak")) + 1) / options.trials
                    if sum(faults.values()) < min(due, options.faults):
                        _inject(driver, place.study("soak"), moments, faults)
                in_start = False
            status = driver.wait()
            left.extend(driver.leftovers())
            statuses[status] += 1
            if "Traceback" in driver.output:
                print(driver.output, file=sys.stderr)
                raise SystemExit("a traceback")
            print(
                f"start {starts} ended with {status}, {sum(faults.values())} faults so far", file=sys.stderr, flush=True
            )
            if status not in EXPECTED:
                print(*driver.output.splitlines()[-20:], sep="\n", file=sys.stderr, flush=True)
            if status == 0:
                place.run("soak", *OPTIONS)  # mends what was damaged after the last look of the one before
                return faults, starts, statuses, left
    raise SystemExit(f"not complete after {MOST_STARTS} starts")


def _num_done(study: StudyFolder) -> int:
    """The trials that have ended, as the driver says."""
    try:
        progress = parse_progress((study.path / PROGRESS_FILE).read_text())
    except OSError:
        return 0
    return progress.num_done if progress else 0


def _inject(driver: Driver, study: StudyFolder, moments: random.Random, faults: Counter[str]) -> None:
    [fault] = moments.choices(list(FAULTS), weights=[weight for _, weight in FAULTS.values()])
    if FAULTS[fault][0](driver, study, moments):
        faults[fault] += 1


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
    """The newest one of a trial that has another. Not that of the last epoch: the trial may have ended, and nothing makes it again."""
    for folder in _shuffled(study, moments):
        if len(paths := list_checkpoints(folder)) < 2 or paths[0].name.startswith(f"epoch-{EPOCHS:05d}."):
            continue
        if _damaged(paths[0]):
            return True
    return False


def _shuffled(study: StudyFolder, moments: random.Random) -> list[Path]:
    """The folders of all trials."""
    found = sorted(study.trials.iterdir()) if study.trials.is_dir() else []
    moments.shuffle(found)
    return found


def _remove_records(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    for folder in _shuffled(study, moments):
        if found := sorted(folder.glob("*.parquet")):
            moments.choice(found).unlink(missing_ok=True)
            return True
    return False


def _truncate_state(driver: Driver, study: StudyFolder, moments: random.Random) -> bool:
    for folder in _shuffled(study, moments):
        with contextlib.suppress(OSError, TrialStateError):
            if (state := read_state(folder)) is not None and state.finished:
                return _damaged(folder / "trial.json")
    return False


def _damaged(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        truncate(path)
        return True
    return False


# What it does, and how often it is chosen.
FAULTS = {
    "worker killed": (_kill_worker, 5),
    "driver killed": (_kill_driver, 1),
    "driver interrupted": (_interrupt, 1),
    "checkpoint truncated": (_truncate_checkpoint, 4),
    "records removed": (_remove_records, 4),
    "trial.json truncated": (_truncate_state, 4),
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.soak", description="Faults at random, nothing lost."
    )
    parser.add_argument("--trials", type=int, default=1000, help="an even number of trials (default: 1000)")
    parser.add_argument("--faults", type=int, default=200, help="faults, spread over the trials (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
