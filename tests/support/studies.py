"""Complete study folders with values of known truth, written without training anything.

The values look like training (accuracies rise, losses fall, gradients shrink) and follow the formulas of this module, so
that a test can say what the analysis must find. Everything of one trial is computed as arrays and written as one row
group, so a study of a thousand trials takes seconds, not memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records.factors import find_factors
from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import Cell, StudyInfo
from tests.support import synthetic_model
from trainable.config import TrialConfig, cell_id, trial_id
from trainable.records.tables import SCHEMAS, build_table, config_columns

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = (
    {
        "final_test_accuracy": 0.9310, "final_train_accuracy": 0.9725, "gap": 0.0415, "final_train_loss": 0.0864,
        "final_test_loss": 0.2153, "epoch1_test_accuracy": 0.2859, "steps_per_epoch": 781, "train_time_s": 480,
    },
    {
        "final_test_accuracy": 0.9239, "final_train_accuracy": 0.9777, "gap": 0.0538, "final_test_loss": 0.2375,
        "epoch1_test_accuracy": 0.3543, "steps_per_epoch": 390, "train_time_s": 420,
    },
)  # fmt: skip
GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")


@dataclass(frozen=True)
class Truth:
    """What training one cell comes to, before the noise of seeds."""

    final_test_accuracy: float = 0.93
    gap: float = 0.045
    epoch1_test_accuracy: float = 0.30
    seed_sd: float = 0.002  # standard deviation of the final test accuracy over seeds
    images_per_s: float = 20_000.0
    # Mean |g| of each group in the first epoch; it falls tenfold to the last one.
    gradients: Mapping[str, float] = field(
        default_factory=lambda: dict(zip(GROUPS, (8e-3, 4e-3, 2e-3, 1e-3, 5e-4, 2e-2), strict=True))
    )
    # Mean |w - w0| of each group at the end.
    displacements: Mapping[str, float] = field(
        default_factory=lambda: dict(zip(GROUPS, (0.08, 0.04, 0.03, 0.02, 0.01, 0.06), strict=True))
    )


TRUTHS = (
    Truth(),
    Truth(final_test_accuracy=0.92, gap=0.055, epoch1_test_accuracy=0.35, images_per_s=24_000.0),
)


def paper_cells(**overrides: Any) -> list[Cell]:
    """The two published experiments as cells, with what was published; `overrides` change both configurations."""
    cells = []
    for number, (batch_size, learning_rate) in enumerate(((64, 0.15), (128, 0.20))):
        built = build_cell(f"Experiment {number + 1}", batch_size=batch_size, learning_rate=learning_rate, **overrides)
        cells.append(Cell(built.cell_id, built.label, built.config, dict(PUBLISHED[number])))
    return cells


def build_cell(label: str, **config: Any) -> Cell:
    """A cell with these fields of TrialConfig and the defaults for the rest."""
    complete = TrialConfig.from_dict(config)
    content = {name: value for name, value in complete.to_dict().items() if name != "seed"}
    return Cell(cell_id(complete), label, content)


def write_synthetic_study(
    folder: Path,
    *,
    cells: Sequence[Cell] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 25,
    truths: Sequence[Truth] = TRUTHS,
    outcomes: Mapping[tuple[int, int], str] | None = None,
    num_train: int = 50_000,
    data: Mapping[str, Any] | None = None,
    hardware: str = "NVIDIA H200",
    layers: bool = True,
    **info: Any,
) -> StudyFolder:
    """Write a valid study folder and return it.

    `cells` defaults to the two published experiments with `epochs` epochs (given cells keep their own); the truth of
    cell i is `truths[i % len(truths)]`. `outcomes` maps (cell index, seed) to a status other than completed, or to
    `missing` for a trial without any record; `pending` has no epochs yet, `interrupted` is pending with a third of them.
    `data` and `info` replace fields of StudyInfo.data and of StudyInfo.
    """
    study_folder = StudyFolder(folder)
    cells = list(cells) if cells is not None else paper_cells(epochs=epochs, dataset="synthetic")
    study = build_study(cells, seeds, num_train, data or {}, info)
    trials = []
    for index, cell in enumerate(cells):
        for seed in seeds:
            status = (outcomes or {}).get((index, seed), "completed")
            if status != "missing":
                trials.append(_Trial(cell, seed, status, truths[index % len(truths)], study, index))
    study_folder.write_study(study)
    study_folder.write_records("trials", build_table("trials", [trial.row(hardware) for trial in trials]))
    writers = {"epochs": _Trial.epochs, "steps": _Trial.steps, **({"layers": _Trial.layers} if layers else {})}
    for kind, build in writers.items():
        with pq.ParquetWriter(study_folder.records(kind), SCHEMAS[kind], compression="zstd") as writer:
            for trial in trials:
                writer.write_table(build(trial))
    write_model(study_folder, sorted({cell.config["width"] for cell in cells}))
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 32, 32, 3), dtype=np.uint8)
    np.savez(study_folder.samples, images=images, class_names=np.array(CLASS_NAMES))
    return study_folder


def build_study(
    cells: Sequence[Cell], seeds: Sequence[int], num_train: int, data: Mapping[str, Any], info: Mapping[str, Any]
) -> StudyInfo:
    """The StudyInfo of these cells and seeds; `data` and `info` replace its values."""
    names = find_factors(cell.config for cell in cells)
    dataset = cells[0].config["dataset"] if cells else "synthetic"
    values: dict[str, Any] = {
        "name": "synthetic",
        "title": "A study made up for tests",
        "created_at": "2026-01-01T00:00:00+00:00",
        "cells": tuple(cells),
        "seeds": tuple(seeds),
        "factors": tuple(names),
        "reductions": (),
        "equivalence_margin": 0.005,
        "data": {
            "dataset": dataset, "fingerprint": "d" * 16, "source": "drawn for tests", "num_train": num_train,
            "num_test": 10_000, "class_names": list(CLASS_NAMES), **data,
        },
        "code": {"fingerprint": "c" * 16, "commit": "0" * 40, "diff_hash": None},
        "environment": {"versions": {"python": "3.11", "torch": "2.11.0"}, "hardware": "NVIDIA H200"},
    }  # fmt: skip
    return StudyInfo(**{**values, **info})


def write_model(folder: StudyFolder, widths: Sequence[int]) -> None:
    """Write model.parquet for these widths."""
    rows = [
        module.row(width, position)
        for width in widths
        for position, module in enumerate(synthetic_model.modules(width))
    ]
    folder.write_records("model", build_table("model", rows))


class _Trial:
    """One trial: its configuration, its status and its records as tables."""

    def __init__(self, cell: Cell, seed: int, status: str, truth: Truth, study: StudyInfo, index: int) -> None:
        self.cell, self.seed, self.truth = cell, seed, truth
        self.status = "pending" if status == "interrupted" else status
        self.config = TrialConfig.from_dict({**cell.config, "seed": seed})
        self.study = study
        self.id = trial_id(self.config, study.data["fingerprint"])
        self.num_epochs = self.config.epochs if status == "completed" else self.config.epochs // 3
        if status in ("failed", "pending"):
            self.num_epochs = 0
        self.num_train = min(self.config.train_limit or study.data["num_train"], study.data["num_train"])
        self.steps_per_epoch = (self.num_train - self.config.validation_size) // self.config.batch_size
        self.random = np.random.default_rng([index, seed])
        self.luck, self.early_luck, self.gap_luck = self.random.normal(0.0, truth.seed_sd, 3)

    def row(self, hardware: str) -> dict[str, Any]:
        return {
            "trial_id": self.id, "cell_id": self.cell.cell_id, "status": self.status, "role": "grid", "seed": self.seed,
            "reason": None if self.status == "completed" else f"made {self.status} for a test",
            **config_columns(self.config),
            "data_fingerprint": self.study.data["fingerprint"], "code_fingerprint": self.study.code.get("fingerprint"),
            "epochs_completed": self.num_epochs, "attempts": 1, "failures": int(self.status == "failed"),
            "hardware": hardware, "hostname": "node0", "num_threads": 1, "gpu_share": 1.0, "gpu_ids": "0", "timing_exclusive": True,
            "torch_version": "2.11.0", "started_at": "2026-01-01T00:00:00+00:00",
            "ended_at": "2026-01-01T00:10:00+00:00", "wall_time_s": 1.1 * self.num_epochs * self.epoch_time_s,
        }  # fmt: skip

    @property
    def epoch_time_s(self) -> float:
        return float(self.steps_per_epoch * self.config.batch_size / self.truth.images_per_s)

    def learning_rate(self, epochs: np.ndarray) -> np.ndarray:
        """After the scheduler step of these epochs."""
        return np.asarray(self.config.learning_rate * (1 + np.cos(np.pi * epochs / self.config.epochs)) / 2)

    def test_accuracy(self, epochs: np.ndarray) -> np.ndarray:
        """From the first epoch's value to the final one, which is exactly the truth and this trial's luck."""
        final, first = self.truth.final_test_accuracy + self.luck, self.truth.epoch1_test_accuracy + self.early_luck
        span = max(self.config.epochs - 1, 1)
        rise = (
            (1 - np.exp(-3 * (epochs - 1) / span)) / (1 - np.exp(-3))
            if self.config.epochs > 1
            else np.ones_like(epochs)
        )
        return np.asarray(first + (final - first) * rise)

    def epochs(self) -> pa.Table:
        epochs = np.arange(1, self.num_epochs + 1)
        accuracy, progress = self.test_accuracy(epochs), epochs / self.config.epochs
        time_s = np.full(len(epochs), self.epoch_time_s)
        train_accuracy = np.minimum(accuracy + (self.truth.gap + self.gap_luck) * progress**2, 1.0)
        images = self.steps_per_epoch * self.config.batch_size
        return _table("epochs", len(epochs), {
            "trial_id": self._name(len(epochs)), "epoch": epochs, "step": epochs * self.steps_per_epoch,
            "train_loss": 2.5 * (1 - train_accuracy) + 0.02, "train_accuracy": train_accuracy,
            "test_loss": 2.5 * (1 - accuracy) + 0.05, "test_accuracy": accuracy,
            "learning_rate": self.learning_rate(epochs), "train_time_s": time_s, "eval_time_s": time_s / 10,
            "instrument_time_s": time_s / 200, "images_per_s": images / time_s,
            "peak_memory_bytes": np.full(len(epochs), 2_000_000_000), "noise_scale": 500 * np.exp(2 * progress),
            "gradient_l2_squared_unbiased": 0.1 / (1 + progress), "gradient_covariance_trace": 50 / (1 + progress),
        })  # fmt: skip

    def steps(self) -> pa.Table:
        within = np.arange(0, self.steps_per_epoch, self.config.log_every_steps)
        epochs = np.repeat(np.arange(1, self.num_epochs + 1), len(within))
        steps = (epochs - 1) * self.steps_per_epoch + np.tile(within, self.num_epochs)
        every = self.config.instrument_every_steps
        unmeasured = np.tile(within % every != 0 if every else np.ones(len(within), bool), self.num_epochs)
        scale = self._decay(steps) * np.exp(self.random.normal(0, 0.1, len(steps)))
        accuracy = self.test_accuracy(epochs)
        return _table("steps", len(steps), {
            "trial_id": self._name(len(steps)), "epoch": epochs, "step": steps,
            "batch_loss": (2.5 * (1 - accuracy) + 0.02) * np.exp(self.random.normal(0, 0.05, len(steps))),
            "running_accuracy": accuracy, "learning_rate": self.learning_rate(epochs - 1),
            "gradient_mean_abs": pa.array(0.03 * scale, mask=unmeasured),
            "gradient_max_abs": pa.array(0.5 * scale, mask=unmeasured),
            "gradient_l2": pa.array(3.0 * scale, mask=unmeasured),
        })  # fmt: skip

    def layers(self) -> pa.Table:
        tensors = synthetic_model.parameters(self.config.width)
        every = self.config.instrument_every_steps
        within = np.arange(0, self.steps_per_epoch, every) if every else np.empty(0, int)
        moments = self.num_epochs * len(within)
        epochs = np.repeat(np.arange(1, self.num_epochs + 1), len(within))
        steps = (epochs - 1) * self.steps_per_epoch + np.tile(within, self.num_epochs)
        count = moments * len(tensors)
        sizes = np.tile([t.num_elements for t in tensors], moments)
        group = np.tile([GROUPS.index(t.group) for t in tensors], moments)
        kinds = np.tile([("conv", "bn", "linear").index(t.kind) for t in tensors], moments)
        decay = np.repeat(self._decay(steps), len(tensors))
        noise = np.exp(self.random.normal(0, 0.2, count))
        gradient = np.array([self.truth.gradients[g] for g in GROUPS])[group] * decay * noise
        progress = np.repeat((steps + 1) / (self.config.epochs * self.steps_per_epoch), len(tensors))
        moved = np.array([self.truth.displacements[g] for g in GROUPS])[group] * np.sqrt(progress) * noise
        weight = 0.05 - 0.02 * progress
        ratio = 0.02 * decay * (1 + group / 10)
        return _table("layers", count, {
            "trial_id": self._name(count), "epoch": np.repeat(epochs, len(tensors)),
            "step": np.repeat(steps, len(tensors)),
            "layer": _names(np.tile(np.arange(len(tensors)), moments), [t.name for t in tensors]),
            "group": _names(group, GROUPS), "kind": _names(kinds, ("conv", "bn", "linear")), "num_elements": sizes,
            "gradient_mean_abs": gradient, "gradient_max_abs": 20 * gradient, "gradient_min_abs": gradient / 100,
            "gradient_std_abs": gradient, "gradient_l2": gradient * np.sqrt(2 * sizes),
            "weight_mean_abs": weight, "weight_max_abs": 10 * weight, "weight_std": 1.25 * weight,
            "weight_l2": 1.25 * weight * np.sqrt(sizes), "update_l2": ratio * 1.25 * weight * np.sqrt(sizes),
            "update_ratio": ratio, "displacement_mean_abs": moved, "displacement_max_abs": 8 * moved,
            "displacement_l2": 1.25 * moved * np.sqrt(sizes),
            "angular_update": pa.array(ratio, mask=kinds != 0),
        })  # fmt: skip

    def _decay(self, steps: np.ndarray) -> np.ndarray:
        """From 1 at the first step to 0.1 at the last."""
        return np.asarray(0.1 ** (steps / max(self.config.epochs * self.steps_per_epoch, 1)))

    def _name(self, count: int) -> pa.DictionaryArray:
        return _names(np.zeros(count, dtype=np.int32), [self.id])


def _names(indices: np.ndarray, values: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(list(values), pa.string()))


def _table(kind: str, count: int, columns: Mapping[str, Any]) -> pa.Table:
    """A table in the schema of `kind`; columns that are not given are null."""
    arrays = []
    for column in SCHEMAS[kind]:
        values = columns.get(column.name)
        if values is None:
            arrays.append(pa.nulls(count, column.type))
        elif isinstance(values, (pa.Array, pa.ChunkedArray)):
            arrays.append(values if values.type == column.type else values.cast(column.type))
        else:
            arrays.append(pa.array(values).cast(column.type, safe=False))
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[kind])
