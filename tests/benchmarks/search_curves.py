"""Real learning curves of a grid of configurations, measured once: `python -m tests.benchmarks.search_curves`.

Trains every batch size with every learning rate over a few seeds on synthetic images, small enough for a minute of CPU
per ten trainings, and keeps validation accuracy by epoch in data/search_curves.csv. The simulated searches
(search_simulation.py) look their trials up there instead of training them. Knows no search.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from trainable.data.image_data import ImageData

CURVES = Path(__file__).parent / "data" / "search_curves.csv"
BATCH_SIZES = (16, 32, 64, 128, 256)
LEARNING_RATES = tuple(0.005 * 2**power for power in range(9))  # 0.005 to 1.28
NUM_EPOCHS = 9
SEEDS = (0, 1, 2)
_COLUMNS = ("seed", "batch_size", "learning_rate", "epoch", "val_accuracy")
_SETTINGS = {
    "dataset": "synthetic", "width": 4, "epochs": NUM_EPOCHS, "train_limit": 2_000, "validation_size": 1_000,
    "test_limit": 10, "instrument_every_steps": 0, "noise_scale_every_epochs": 0, "log_every_steps": 1_000,
}  # fmt: skip


def main() -> None:
    """Train every configuration and write the table, again after each seed, so that an interruption keeps whole seeds."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.search_curves", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--to", type=Path, default=CURVES, metavar="FILE")
    options = parser.parse_args()
    from trainable.data.data_set import load_data

    data = load_data("synthetic")
    rows: list[tuple[object, ...]] = []
    for seed in SEEDS:
        for batch_size in BATCH_SIZES:
            for learning_rate in LEARNING_RATES:
                curve = list(train_curve(data, batch_size, learning_rate, seed))
                rows += [
                    (seed, batch_size, f"{learning_rate:g}", epoch, f"{a:.4g}") for epoch, a in enumerate(curve, 1)
                ]
                print(f"seed {seed}, batch {batch_size}, rate {learning_rate:g}: {curve[-1]:.3f}", flush=True)
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerows([_COLUMNS, *rows])
        options.to.parent.mkdir(parents=True, exist_ok=True)
        options.to.write_text(sink.getvalue())


def train_curve(data: ImageData, batch_size: int, learning_rate: float, seed: int) -> Iterator[float]:
    """Validation accuracy after each epoch; ends early where the training diverges."""
    import torch

    from trainable.config import TrialConfig
    from trainable.training.loop import TrainingDiverged, train

    torch.set_num_threads(1)
    config = TrialConfig.from_dict(
        {**_SETTINGS, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    )
    try:
        for result in train(config, data):
            yield float(result.metrics["val_accuracy"])
    except TrainingDiverged:
        return


def read_curves(path: Path = CURVES) -> npt.NDArray[np.float64]:
    """Validation accuracies (seed, batch size, learning rate, epoch); NaN after a divergence."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = sorted({int(row["seed"]) for row in rows})
    curves = np.full((len(seeds), len(BATCH_SIZES), len(LEARNING_RATES), NUM_EPOCHS), np.nan)
    rates = [f"{rate:g}" for rate in LEARNING_RATES]
    for row in rows:
        place = (
            seeds.index(int(row["seed"])),
            BATCH_SIZES.index(int(row["batch_size"])),
            rates.index(row["learning_rate"]),
        )
        curves[(*place, int(row["epoch"]) - 1)] = float(row["val_accuracy"])
    return curves


if __name__ == "__main__":
    main()
