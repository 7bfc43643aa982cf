"""A study from its W&B runs: one run per trial, its configuration and its full, unsampled history -> records.

W&B holds what worksheet.md section 8 names, accuracies in percent, against the axes `step` and `epoch`, and no layer
records: those tables stay empty. The reading of runs (`pull_group`) is apart from what is made of them (`write_runs`), which
needs no W&B.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.records.factors import field_title, find_factors
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.records.study_json import EQUIVALENCE_MARGIN, Cell, StudyInfo
from trainable.config import FIELDS, TrialConfig, cell_id, is_model_field, trial_id
from trainable.errors import first_line
from trainable.records.columns import EPOCH_INSTRUMENTS, TENSOR_INSTRUMENTS, TRIAL_INSTRUMENT_COLUMNS
from trainable.records.tables import build_table, config_columns
from trainable.training.schedule import scheduled_learning_rate

_TIMEOUT_S = 60
_STATUS = {"finished": "completed", "running": "running", "failed": "failed", "crashed": "failed", "killed": "failed"}
_EPOCH_NAMES = {
    "train/epoch_loss": "train_loss", "train/epoch_acc": "train_accuracy", "test/loss": "test_loss",
    "test/acc": "test_accuracy", "learning_rate": "learning_rate",
    **{f"instruments/{column.name}": column.name for one in EPOCH_INSTRUMENTS for column in one.columns},
}  # fmt: skip
_STEP_NAMES = {
    "train/batch_loss": "batch_loss", "train/batch_acc": "running_accuracy", "train/learning_rate": "learning_rate",
    **{f"instruments/{column.name}": column.name for one in TENSOR_INSTRUMENTS for column in one.step_columns},
    "train/avg_gradient_norm": "gradient_mean_abs", "train/max_gradient_norm": "gradient_max_abs",
}  # fmt: skip
_TRIAL_NAMES = {f"instruments/{column.name}": column.name for column in TRIAL_INSTRUMENT_COLUMNS}
_PERCENT = ("train_accuracy", "test_accuracy", "running_accuracy")


@dataclass(frozen=True)
class RunHistory:
    """One W&B run: `rows` are its history in order, each a mapping of metric names to values."""

    run_id: str
    state: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


def pull_group(path: str, folder: StudyFolder) -> None:
    """Write the study of the runs in ENTITY/PROJECT/GROUP. Errors: StudyFolderError, within a minute or so."""
    parts = path.split("/")
    if len(parts) != 3 or not all(parts):
        raise StudyFolderError(f"wandb:{path}: not wandb:ENTITY/PROJECT/GROUP")
    import wandb  # takes a second

    entity, project, group = parts
    try:
        api = wandb.Api(timeout=_TIMEOUT_S)
        runs = [
            RunHistory(run.id, run.state, dict(run.config), list(run.scan_history()))
            for run in api.runs(f"{entity}/{project}", filters={"group": group})
        ]
    except (wandb.errors.Error, ValueError, OSError) as error:  # wandb raises ValueError for an unknown project
        raise StudyFolderError(
            f"wandb:{path}: {first_line(error)}; is WANDB_API_KEY set, and is the project yours to read?"
        ) from error
    if not runs:
        raise StudyFolderError(f"wandb:{path}: no runs in the group {group!r} of {entity}/{project}")
    write_runs(runs, group, folder)


def write_runs(runs: Iterable[RunHistory], name: str, folder: StudyFolder) -> None:
    """Write the study that these runs are. Errors: StudyFolderError where none of them is a trial."""
    found = [(run, config) for run in runs if (config := _config(run)) is not None]
    trials = [(run, config) for run, config in found if config.test_limit != 0]
    if not trials:
        raise StudyFolderError(f"{name}: no run has the configuration of a trial")
    study = _study_info(trials, name)
    if len(trials) < len(found):  # those of a search: its journal is not in W&B
        note = f"{len(found) - len(trials)} trials that never saw the test set are left out"
        study = replace(study, reductions=(*study.reductions, note))
    rows: dict[str, list[dict[str, Any]]] = {"trials": [], "epochs": [], "steps": []}
    for run, config in trials:
        identity = str(run.config.get("trial_id") or trial_id(config, study.data["fingerprint"]))
        epochs, steps = build_records(run, config, identity)
        rows["epochs"] += epochs
        rows["steps"] += steps
        rows["trials"].append(_trial_row(run, config, identity, len(epochs)))
    folder.write_study(study)
    for kind, records in rows.items():
        folder.write_records(kind, build_table(kind, records))


def build_records(
    run: RunHistory, config: TrialConfig, identity: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The epoch and the step records in a run's history; accuracies become fractions."""
    epochs: list[dict[str, Any]] = []
    steps: dict[int, dict[str, Any]] = {}
    for row in run.rows:
        step = _whole(row.get("step", row.get("_step")))
        values = {column: row[name] for name, column in _STEP_NAMES.items() if _is_number(row.get(name))}
        if values and step is not None:
            epoch = _whole(row.get("epoch")) or len(epochs) + 1
            steps.setdefault(step, {"trial_id": identity, "epoch": epoch, "step": step}).update(_fractions(values))
        values = {column: row[name] for name, column in _EPOCH_NAMES.items() if _is_number(row.get(name))}
        if "test_accuracy" in values:
            epoch = _whole(row.get("epoch")) or len(epochs) + 1
            record = {
                "trial_id": identity,
                "epoch": epoch,
                "step": step,
                "learning_rate": scheduled_learning_rate(config, epoch),
            }
            epochs.append(record | _fractions(values))
    return epochs, list(steps.values())


def _config(run: RunHistory) -> TrialConfig | None:
    """The configuration of a run that is a trial; a summary run has none."""
    known = {name: value for name, value in run.config.items() if name in FIELDS or is_model_field(name)}
    if not {"batch_size", "learning_rate", "seed"} <= set(known):
        return None
    try:
        return TrialConfig.from_dict(known)
    except ValueError as error:
        raise StudyFolderError(f"run {run.run_id}: {error}") from error


def _study_info(trials: Sequence[tuple[RunHistory, TrialConfig]], name: str) -> StudyInfo:
    first, first_config = trials[0]
    configs = {cell_id(config): config for _, config in trials}
    factors = find_factors(config.to_dict() for config in configs.values())
    labels = {cell_id(config): str(run.config.get("cell") or _label(config, factors)) for run, config in trials}
    cells = tuple(Cell(i, labels[i], _without_seed(c)) for i, c in configs.items())
    sizes = (50_000, 10_000) if first_config.dataset == "cifar10" else (None, None)
    return StudyInfo(
        name=name, title=f"{name}, from W&B", created_at="", cells=cells,
        seeds=tuple(sorted({config.seed for _, config in trials})), factors=factors,
        reductions=("rebuilt from W&B: without layer records",), equivalence_margin=EQUIVALENCE_MARGIN,
        data={
            "dataset": first_config.dataset, "fingerprint": str(first.config.get("data_fingerprint", "unknown")),
            "source": "W&B", "num_train": sizes[0], "num_test": sizes[1], "class_names": [],
        },
        code={"fingerprint": str(first.config.get("code_fingerprint", "unknown"))}, environment={},
    )  # fmt: skip


def _trial_row(run: RunHistory, config: TrialConfig, identity: str, num_epochs: int) -> dict[str, Any]:
    status, reason = _STATUS.get(run.state, "failed"), f"W&B says {run.state}"
    if status == "completed" and num_epochs < config.epochs:
        status, reason = "failed", f"W&B has {num_epochs} of {config.epochs} epochs"
    measured = {_TRIAL_NAMES[name]: row[name] for row in run.rows for name in _TRIAL_NAMES if _is_number(row.get(name))}
    return {
        "trial_id": identity, "cell_id": cell_id(config), "status": status, "seed": config.seed,
        "reason": None if status == "completed" else reason, **config_columns(config),
        "data_fingerprint": str(run.config.get("data_fingerprint", "unknown")),
        "code_fingerprint": str(run.config.get("code_fingerprint", "unknown")), "epochs_completed": num_epochs,
        "timing_exclusive": False, **measured,
    }  # fmt: skip


def _fractions(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value / 100 if name in _PERCENT else value for name, value in values.items()}


def _without_seed(config: TrialConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name != "seed"}


def _label(config: TrialConfig, factors: Sequence[str]) -> str:
    values = config.to_dict()
    return ", ".join(f"{field_title(name)} {values.get(name)}" for name in factors) or "all trials"


def _whole(value: Any) -> int | None:
    return int(value) if _is_number(value) and float(value).is_integer() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
