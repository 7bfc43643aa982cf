"""Study folders of searches with values of known truth: a real Optuna search over a formula, its trials written as records.

The journal is written by Optuna itself, with its samplers and pruners; nothing is trained. `validation_accuracy` is the
truth that an analysis must find.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import Cell
from tests.support.studies import Truth, build_cell, write_synthetic_study
from trainable.config import TrialConfig, cell_id, trial_id
from trainable.records.tables import build_table, config_columns

NUM_EPOCHS = 5
BATCH_SIZES = (32, 64, 128, 256, 512)
PUBLISHED = ({"batch_size": 64, "learning_rate": 0.15}, {"batch_size": 128, "learning_rate": 0.2})
SPACE = {
    "batch_size": {"choices": list(BATCH_SIZES)},
    "learning_rate": {"low": 0.001, "high": 1.5, "log": True},
    "momentum": {"low": 0.0, "high": 0.95},
}
_CONFIG = {
    "dataset": "synthetic", "epochs": NUM_EPOCHS, "width": 8, "instrument_every_steps": 8, "log_every_steps": 4
}  # fmt: skip
_DIRECTIONS = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
_FINGERPRINT = "d" * 16
_STATUS = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "diverged", "RUNNING": "running"}


def validation_accuracy(parameters: Mapping[str, Any], epoch: int = NUM_EPOCHS, luck: float = 0.0) -> float:
    """Best at a learning rate of 0.1 and a batch of 128; the momentum does nothing."""
    rate, batch = math.log10(parameters["learning_rate"] / 0.1), math.log2(parameters["batch_size"] / 128)
    final = 0.85 - 0.25 * rate**2 - 0.02 * batch**2 + luck
    return max(0.1, final * (1 - math.exp(-epoch)) / (1 - math.exp(-NUM_EPOCHS)))


def write_search_study(
    folder: Path, *, num_trials: int = 30, top_k: int = 2, objectives: Sequence[str] = ("val_accuracy",), seed: int = 0,
    confirmed: bool = True, seeds: Sequence[int] = (100, 101, 102), noise: float = 0.01, **info: Any,
) -> StudyFolder:  # fmt: skip
    """Search, then write a study folder with the journal, the searched trials and, where `confirmed`, the confirmations.

    Trials with a learning rate above 1 diverge in their second epoch. The confirmed test accuracy of a configuration is its
    true validation accuracy less one point.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = info.pop("name", folder.name)
    study = _optimize(folder / "search.journal", name, num_trials, objectives, seed, noise)
    chosen = [dict(p, momentum=0.9) for p in PUBLISHED]
    chosen += [trial.params for trial in _rank(study)[:top_k]] if confirmed else []
    cells = list({cell.cell_id: cell for cell in map(_confirmation_cell, chosen)}.values())
    cells[: len(PUBLISHED)] = [replace(c, published={"final_test_accuracy": 0.8}) for c in cells[: len(PUBLISHED)]]
    truths = [Truth(validation_accuracy(cell.config) - 0.01, epoch1_test_accuracy=0.2) for cell in cells]
    search = {
        "sampler": "tpe", "pruner": "median", "objective": objectives[0] if len(objectives) == 1 else list(objectives),
        "trials": num_trials, "top_k": top_k, "confirmation_seeds": list(seeds), "seed": seed, "space": SPACE,
        "enqueued": [dict(p, momentum=0.9) for p in PUBLISHED],
    }  # fmt: skip
    written = write_synthetic_study(
        folder, cells=cells, seeds=seeds, truths=truths, num_train=1_280, layers=False, name=name, search=search, **info,
        outcomes=None if confirmed else {(c, s): "missing" for c in range(len(cells)) for s in seeds},
    )  # fmt: skip
    _set_role(written, "confirmation")
    _append(written, study)
    return written


def _optimize(
    journal: Path, name: str, num_trials: int, objectives: Sequence[str], seed: int, noise: float
) -> optuna.Study:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))), study_name=name,
        directions=_DIRECTIONS[: len(objectives)], sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=12, n_warmup_steps=1),
    )  # fmt: skip
    for parameters in PUBLISHED:
        study.enqueue_trial({**parameters, "momentum": 0.9})
    lucks = np.random.default_rng(seed).normal(0, noise, num_trials)

    def objective(trial: optuna.Trial) -> float | Sequence[float]:
        parameters = {
            "batch_size": trial.suggest_categorical("batch_size", BATCH_SIZES),
            "learning_rate": trial.suggest_float("learning_rate", 0.001, 1.5, log=True),
            "momentum": trial.suggest_float("momentum", 0.0, 0.95),
        }
        trial.set_user_attr("trial_id", trial_id(_search_config(parameters), _FINGERPRINT))
        if parameters["learning_rate"] > 1:
            if len(objectives) == 1:
                trial.report(0.1, 1)
            trial.set_user_attr("reason", "loss not finite in epoch 2, first at step 12")
            raise FloatingPointError
        values = [validation_accuracy(parameters, epoch + 1, lucks[trial.number]) for epoch in range(NUM_EPOCHS)]
        if len(objectives) > 1:
            return values[-1], 1e9 * parameters["batch_size"]
        for epoch, value in enumerate(values, 1):
            trial.report(value, epoch)
            if epoch < NUM_EPOCHS and trial.should_prune():
                trial.set_user_attr("reason", f"worse than the median after epoch {epoch}")
                raise optuna.TrialPruned
        return values[-1]

    study.optimize(objective, n_trials=num_trials, catch=(FloatingPointError,))
    optuna.logging.set_verbosity(verbosity)
    return study


def _rank(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    if len(study.directions) > 1:
        trials = study.best_trials
    return sorted(trials, key=lambda trial: -trial.values[0])


def _confirmation_cell(parameters: Mapping[str, Any]) -> Cell:
    label = f"batch {parameters['batch_size']}, rate {parameters['learning_rate']:.3g}"
    return build_cell(f"{label}, momentum {parameters['momentum']:.2f}", **_CONFIG, **parameters)


def _search_config(parameters: Mapping[str, Any]) -> TrialConfig:
    return TrialConfig.from_dict({**_CONFIG, **parameters, "validation_size": 128, "test_limit": 0})


def _set_role(folder: StudyFolder, role: str) -> None:
    table = folder.read_records("trials")
    place = table.schema.get_field_index("role")
    values = pa.array([role] * table.num_rows, pa.string())
    folder.write_records("trials", table.set_column(place, table.schema.field("role"), values))


def _append(folder: StudyFolder, study: optuna.Study) -> None:
    """The records of the searched trials, behind those of the confirmations."""
    rows: dict[str, list[dict[str, Any]]] = {"trials": [], "epochs": [], "steps": [], "layers": []}
    for trial in study.get_trials(states=[optuna.trial.TrialState[name] for name in _STATUS]):
        config = _search_config(trial.params)
        values = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        if len(study.directions) > 1 and trial.values:
            values = [validation_accuracy(trial.params, epoch + 1) for epoch in range(NUM_EPOCHS)]
        status = _STATUS[trial.state.name]
        rows["trials"].append({
            "trial_id": trial.user_attrs["trial_id"], "cell_id": cell_id(config), "status": status, "role": "search",
            "seed": 0, "reason": trial.user_attrs.get("reason"), **config_columns(config),
            "data_fingerprint": _FINGERPRINT, "code_fingerprint": "c" * 16, "epochs_completed": len(values),
            "attempts": 1, "failures": 0, "hardware": "NVIDIA H200", "gpu_share": 1.0, "timing_exclusive": False,
            "torch_version": "2.11.0", "wall_time_s": 10.0 * len(values),
        })  # fmt: skip
        for epoch, value in enumerate(values, 1):
            for kind, row in _measurements(trial, epoch, value).items():
                rows[kind].append({"trial_id": trial.user_attrs["trial_id"], "epoch": epoch, **row})
    for kind, new in rows.items():
        table = pa.concat_tables([folder.read_records(kind), build_table(kind, new)])
        folder.write_records(kind, table.unify_dictionaries())


def _measurements(trial: optuna.trial.FrozenTrial, epoch: int, value: float) -> dict[str, dict[str, Any]]:
    """One epoch: the update ratio follows the learning rate exactly, the noise scale the trial's number."""
    rate, batch = trial.params["learning_rate"], trial.params["batch_size"]
    return {
        "epochs": {
            "step": 10 * epoch, "train_loss": 1.0, "train_accuracy": value, "val_loss": 1 - value, "val_accuracy": value,
            "learning_rate": rate, "train_time_s": 9.0, "eval_time_s": 1.0,
            "gradient_covariance_trace": 50.0 * (1 + trial.number % 7), "gradient_l2_squared_unbiased": 0.1,
        },
        "steps": {
            "step": 10 * (epoch - 1), "batch_loss": 1.0, "running_accuracy": value, "learning_rate": rate,
            "gradient_mean_abs": 0.01, "gradient_max_abs": 0.5, "gradient_l2": 100.0 / batch,
        },
        "layers": {
            "step": 10 * (epoch - 1), "layer": "conv1.weight", "group": "stem", "kind": "conv", "num_elements": 216,
            "gradient_mean_abs": 0.01, "update_ratio": 0.1 * rate, "angular_update": 0.2 * math.sqrt(rate),
        },
    }  # fmt: skip
