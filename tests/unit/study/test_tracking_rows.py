"""What W&B runs hold: names, units and places of worksheet.md section 8, against records and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.drawing.layer_records import read_trial_layers
from analysis.figures import trial_figures
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from analysis.results.result_table import ResultTable, TableColumn
from analysis.sources.pull_wandb import RunHistory, build_records
from study.tracking.rows import build_run_config, expand_epoch, final_values
from study.tracking.summary_run import build_readable_frame, summary_tables
from study.tracking.trial_run import draw_picture
from tests.support.studies import write_synthetic_study
from trainable.config import TrialConfig, model_name
from trainable.records.tables import build_table
from trainable.records.trial_state import TrialState

EPOCH = {
    "epoch": 2, "step": 200, "train_loss": 1.5, "train_accuracy": 0.4375, "test_loss": 1.25, "test_accuracy": 0.5,
    "val_loss": None, "learning_rate": 0.1, "train_time_s": 3.0,
}  # fmt: skip
STEPS: list[dict[str, Any]] = [
    {
        "step": 100, "batch_loss": 1.75, "running_accuracy": 0.25, "learning_rate": 0.15, "gradient_mean_abs": 0.01,
        "gradient_max_abs": 0.5, "gradient_l2": 3.0,
    },
    {"step": 150, "batch_loss": 1.625, "running_accuracy": 0.375, "learning_rate": 0.15, "gradient_mean_abs": None},
]  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return write_synthetic_study(tmp_path_factory.mktemp("published") / "study", seeds=(0,), num_train=20_000)


def test_an_epoch_becomes_rows_with_the_published_names_and_percentages() -> None:
    first, second, whole = (row.values for row in expand_epoch(EPOCH, STEPS))
    assert first == {
        "step": 100, "epoch": 2, "train/step": 200, "train/batch_loss": 1.75, "train/batch_acc": 25.0, "train/learning_rate": 0.15,
        "train/avg_gradient_norm": 0.01, "train/max_gradient_norm": 0.5, "instruments/gradient_l2": 3.0,
    }  # fmt: skip
    assert set(first) - set(second) == {
        "train/avg_gradient_norm", "train/max_gradient_norm", "instruments/gradient_l2"
    }, "not measured at 150"  # fmt: skip
    assert whole == {
        "step": 200, "epoch": 2, "train/epoch_loss": 1.5, "train/epoch_acc": 43.75, "test/loss": 1.25, "test/acc": 50.0,
        "learning_rate": 0.1,
    }  # fmt: skip


@pytest.mark.parametrize("steps_per_epoch", [781, 390])
def test_the_published_step_counts_epochs_from_one(steps_per_epoch: int) -> None:
    """The published program logs at epoch * len(loader) + batch."""
    for epoch in (1, 2, 25):
        batches = range(0, steps_per_epoch, 50)
        steps = [{"step": (epoch - 1) * steps_per_epoch + batch} for batch in batches]
        rows = expand_epoch({"epoch": epoch, "step": epoch * steps_per_epoch}, steps)[:-1]
        assert [row.values["train/step"] for row in rows] == [epoch * steps_per_epoch + batch for batch in batches]


def test_final_values_are_of_the_last_epoch_and_the_best_one() -> None:
    assert final_values([0.25, 0.75, 0.5], 0.875, {"norm": 2.0, "nothing": None}) == {
        "final/best_test_acc": 75.0, "final/final_test_acc": 50.0, "final/final_train_acc": 87.5, "instruments/norm": 2.0,
    }  # fmt: skip
    assert final_values([None, None], 0.875, {}) == {"final/final_train_acc": 87.5}


@given(steps_per_epoch=st.integers(1, 30), every=st.integers(1, 40), num_epochs=st.integers(1, 5))
def test_rows_of_a_trial_rise_and_none_takes_the_place_of_another(
    steps_per_epoch: int, every: int, num_epochs: int
) -> None:
    places: list[int] = []
    for epoch in range(1, num_epochs + 1):
        logged = [{"step": s} for s in range((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch, every)]
        rows = expand_epoch({"epoch": epoch, "step": epoch * steps_per_epoch}, logged)
        assert rows[0].wandb_step == (places[-1] + 1 if places else 0), "an epoch begins right after the one before"
        places += [row.wandb_step for row in rows]
    assert places == sorted(set(places))


def test_the_rows_of_a_trial_come_back_as_its_records(published: StudyFolder) -> None:
    """`analysis.pull_wandb` was written against the worksheet, not against these rows."""
    study = load_study(published)
    trial = study.trials.iloc[0]
    epochs = study.epochs[study.epochs["trial_id"] == trial["trial_id"]]
    steps = study.steps[study.steps["trial_id"] == trial["trial_id"]]
    history = [
        row.values
        for epoch in epochs.to_dict("records")
        for row in expand_epoch(
            {str(k): v for k, v in epoch.items()},
            [{k: None if v != v else v for k, v in s.items()} for s in steps[steps["epoch"] == epoch["epoch"]].to_dict("records")],
        )
    ]  # fmt: skip
    config = TrialConfig(batch_size=int(trial["config.batch_size"]), learning_rate=trial["config.learning_rate"])
    pulled_epochs, pulled_steps = build_records(RunHistory("r", "finished", {}, history), config, trial["trial_id"])
    assert len(pulled_epochs) == 25
    for name in ("step", "train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert [row[name] for row in pulled_epochs] == pytest.approx(list(epochs[name])), name
    for name in ("step", "epoch", "batch_loss", "running_accuracy", "learning_rate"):
        assert [row[name] for row in pulled_steps] == pytest.approx(list(steps[name])), name
    measured = steps[steps["gradient_mean_abs"].notna()]
    for name in ("gradient_mean_abs", "gradient_max_abs"):
        assert [row[name] for row in pulled_steps if name in row] == pytest.approx(list(measured[name])), name


def test_the_configuration_is_flat_and_holds_the_published_totals(published: StudyFolder) -> None:
    state = TrialState(config=TrialConfig(seed=3), data_fingerprint="d")
    config = build_run_config(state, "paper", "Experiment 1", published.read_records("model"))
    assert config["total_flops"] == 556_652_554
    assert config["total_parameters"] == config["trainable_parameters"] == 11_173_962
    assert (round(config["gflops"], 4), round(config["mflops"], 2)) == (0.5567, 556.65)
    assert (config["batch_size"], config["learning_rate"], config["seed"], config["study"]) == (64, 0.15, 3, "paper")
    assert config["num_workers"] == 0
    assert not any(isinstance(value, (dict, list, tuple)) for value in config.values())
    narrow = TrialState(config=TrialConfig(width=3), data_fingerprint="d")
    assert "total_flops" not in build_run_config(narrow, "paper", "", published.read_records("model"))


def test_a_network_without_the_published_convention_has_no_total(published: StudyFolder) -> None:
    config = TrialConfig(model="vit", width=4, model_fields=(("depth", 2),))
    rows = [
        {**row, "width": 4, "model": model_name(config.to_dict()), "flops_worksheet": None}
        for row in published.read_records("model").to_pylist()
    ]
    flat = build_run_config(TrialState(config=config, data_fingerprint="d"), "s", "", build_table("model", rows))
    assert flat["total_parameters"] == 11_173_962
    assert flat["model_fields.depth"] == 2
    assert not {"total_flops", "gflops", "mflops"} & set(flat)


def test_every_picture_is_drawn_where_layers_were_measured(published: StudyFolder, tmp_path: Path) -> None:
    study = load_study(published)
    layers = read_trial_layers(study, study.completed_ids[0])
    assert set(trial_figures()) >= {"gradient_flow", "weight_updates", "combined_analysis"}
    for name, kind in trial_figures().items():
        path = tmp_path / f"{name}.png"
        assert draw_picture(kind, layers, 5, "Experiment 1, seed 0", path)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert not draw_picture(kind, layers[:0], 5, "nothing", path)


def test_summary_tables_show_percentages_and_lose_no_column(published: StudyFolder) -> None:
    import pandas as pd

    table = ResultTable(
        "t", "T",
        pd.DataFrame({"name": ["a", "b"], "acc": [0.5, None], "sd": [0.25, None], "n": [3, 4]}),
        (TableColumn("name", "cell"), TableColumn("acc", "test", "accuracy", spread="sd"), TableColumn("n", "runs", "count")),
    )  # fmt: skip
    frame = build_readable_frame(table)
    assert frame.to_dict("list") == {
        "cell": ["a", "b"], "test, %": [50.0, None], "test, % sd": [25.0, None], "runs": [3, 4],
    }  # fmt: skip
    from analysis.tables import build_tables

    for built in build_tables(published, summary_tables()).values():
        readable = build_readable_frame(built)
        shown = sum(
            bool(name) for column in built.columns for name in (column.name, column.spread, column.low, column.high)
        )
        assert readable.shape == (len(built.frame), shown), f"two columns of {built.name} have the same header"
