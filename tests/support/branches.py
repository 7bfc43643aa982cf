"""A study folder with branches whose losses are known, written without training anything."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from analysis.records.frames import Study, load_study
from tests.support.studies import build_cell, write_synthetic_study
from trainable.config import TrialConfig
from trainable.records.tables import build_table
from trainable.records.trial_state import TrialState

PARENT = build_cell("the parent", dataset="synthetic", batch_size=32, epochs=6, learning_rate=0.1)
LOSSES = {32: 1.0, 64: 1.0, 128: 1.04, 256: 2.0}  # + a hundredth per seed


def write_branched(folder: Path, statuses: Mapping[tuple[int, int], str] | None = None) -> Study:
    """A study of three seeds whose branches after epoch 2 have these losses; `statuses` by batch size and seed."""
    branch = {
        "epochs": [2],
        "batch_sizes": [64, 128, 256],
        "scaling": ["linear"],
        "length": 2,
        "images": 512,
        "tolerance": 0.02,
    }
    target = write_synthetic_study(folder, cells=[PARENT], epochs=6, layers=False, branch=branch)
    rows, epochs = target.read_records("trials").to_pylist(), target.read_records("epochs").to_pylist()
    for (size, loss), seed in itertools.product(LOSSES.items(), range(3)):
        config = TrialConfig.from_dict({**PARENT.config, "seed": seed})
        config = replace(
            config, branch_epoch=2, branch_batch_size=size, branch_epochs=2, branch_images=512,
            branch_scaling="none" if size == 32 else "linear",
        )  # fmt: skip
        status = (statuses or {}).get((size, seed), "completed")
        state = TrialState(config=config, data_fingerprint="d" * 16, role="branch", status=status, epochs_completed=4)
        rows.append({**rows[0], **state.to_row()})
        ends = [(3, 9.0), (4, loss + seed / 100 + (seed - 1) * 0.001 * (size > 64))]
        epochs += [
            {"trial_id": state.trial_id, "epoch": epoch, "step": 1, "training_set_loss": value} for epoch, value in ends
        ]
    target.write_records("trials", build_table("trials", rows))
    target.write_records("epochs", build_table("epochs", epochs))
    return load_study(target)
