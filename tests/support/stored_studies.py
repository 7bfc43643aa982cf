"""Small study folders as a version of this project writes them, kept in tests/data/studies: later versions must read them.

    python -m tests.support.stored_studies --to tests/data/studies/NAME [--code CHECKOUT]

runs `python -m study.run` of the checkout twice: a grid of two cells, interrupted in the second one, and a finished search.
What tests do not need is left out: all checkpoints but the newest of the interrupted trial, sample images, report, Ray's files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDIES = Path(__file__).parents[1] / "data" / "studies"
_TIME_LIMIT_S = 1500.0
_BASE = """
[base]
dataset = "synthetic"
width = 1
batch_size = 50
learning_rate = 0.05
test_limit = 200
validation_size = 100
log_every_steps = 20
"""
GRIDS = {
    "grid": f"""
name = "grid"
title = "Two precisions, with warm-up"
seeds = [0]
{_BASE}
train_limit = 600
warmup_epochs = 1
noise_scale_every_epochs = 2
[[cells]]
label = "short"
epochs = 2
[[cells]]
label = "long"
epochs = 5
precision = "bf16"
""",
    "search": f"""
name = "search"
title = "A search over the learning rate"
{_BASE}
epochs = 2
train_limit = 600
instrument_every_steps = 0
noise_scale_every_epochs = 0
[search]
sampler = "random"
pruner = "none"
objective = "val_accuracy"
trials = 3
top_k = 1
confirmation_seeds = 1
seed = 0
[search.space]
learning_rate = {{ low = 0.01, high = 0.2, log = true }}
""",
}


def write_stored_studies(code: Path, to: Path) -> None:
    """Write those of the studies `grid` and `search` that are not in the folder `to`, with the version in the checkout `code`."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in GRIDS.items():
            if (to / name).exists():
                continue
            (Path(scratch) / f"{name}.toml").write_text(text)
            _run(code, Path(scratch), name, interrupted=name == "grid")
            _keep(Path(scratch) / "results" / name, to / name)


def _run(code: Path, scratch: Path, name: str, *, interrupted: bool) -> None:
    """Run the study, each trial on one CPU; where `interrupted`, until one trial is done and the other has begun."""
    command = [sys.executable, "-m", "study.run", "--grid", f"{name}.toml", "--results", "results", "--max-concurrent",
               str(os.cpu_count()),
               "--checkpoint-interval", "0", "--wandb", "off"]  # fmt: skip
    process = subprocess.Popen(command, cwd=scratch, env={**os.environ, "PYTHONPATH": str(code)})
    deadline = time.monotonic() + _TIME_LIMIT_S
    while interrupted and not _one_is_done(scratch / "results" / name) and time.monotonic() < deadline:
        time.sleep(0.02)
    if interrupted:
        process.send_signal(signal.SIGINT)
    status = process.wait(_TIME_LIMIT_S)
    if status != (130 if interrupted else 0):
        raise RuntimeError(f"study.run ended with status {status}")


def _one_is_done(study: Path) -> bool:
    states = [json.loads(path.read_bytes()) for path in study.glob("trials/*/trial.json")]
    completed = [state["status"] == "completed" for state in states]
    return sum(completed) == 1 and all(state["epochs_completed"] for state in states)


def _keep(study: Path, to: Path) -> None:
    for name in ("ray", "report", "wandb"):
        shutil.rmtree(study / name, ignore_errors=True)
    for name in ("samples.npz", "telling_images.npz"):
        (study / name).unlink(missing_ok=True)
    for trial in (study / "trials").iterdir():
        finished = json.loads((trial / "trial.json").read_bytes())["status"] == "completed"
        for checkpoint in sorted(trial.glob("*.ckpt"))[: None if finished else -1]:
            checkpoint.unlink()
    shutil.copytree(study, to)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.stored_studies")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder, named after the commit")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[2], metavar="DIR", help="checkout to run")
    options = parser.parse_args()
    write_stored_studies(options.code.absolute(), options.to)


if __name__ == "__main__":
    main()
