"""Laws of batch size and learning rate: the table, the figure and the verdicts against records whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special

import analysis.claims
from analysis.claims.claims_file import shipped_claims
from analysis.claims.verdicts import check_claims
from analysis.comparison.branches import BranchPoint
from analysis.comparison.critical_batch import Located
from analysis.comparison.stability import angular_equilibrium, plateaus
from analysis.drawing.declaration import Subject
from analysis.drawing.style import NothingToDraw
from analysis.figures.stability import FIGURE
from analysis.records.frames import Study, load_study
from analysis.tables import build_tables
from tests.support.results import EXAMPLES
from tests.support.studies import build_cell, write_synthetic_study

RATE = 0.1
CLAIMS = Path(analysis.claims.__file__).with_name("stability.toml")
EPOCHS = 4


def write(folder: Path, ratios: dict[tuple[int, float], float], schedule: str = "constant") -> Study:
    """A study of cells (batch size, momentum) whose batch sharpness is so many times 2 (1 - b) / lr late, and 50 early; seeds differ by 2 %."""
    cells = [
        build_cell(
            f"batch {size}, momentum {momentum}", batch_size=size, momentum=momentum, learning_rate=RATE, epochs=EPOCHS,
            schedule=schedule, weight_decay=0.001, batch_sharpness_every_epochs=2, dataset="synthetic",
        )
        for size, momentum in ratios
    ]  # fmt: skip
    claims = shipped_claims("stability").decode()
    study = write_synthetic_study(folder, cells=cells, num_train=2048, claims=claims)
    path = study.records("epochs")
    table = pq.read_table(path)
    trials = pq.read_table(study.records("trials")).to_pandas().set_index("trial_id")
    values = []
    for row in table.select(["trial_id", "epoch"]).to_pylist():
        trial = trials.loc[row["trial_id"]]
        ratio = ratios[int(trial["config.batch_size"]), float(trial["config.momentum"])]
        late = ratio * 2 * (1 - trial["config.momentum"]) / RATE * (1 + 0.02 * (trial["seed"] - 1))
        values.append({1: 50.0, 3: late}.get(row["epoch"]))
    place = table.schema.get_field_index("batch_sharpness")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(values, pa.float64())), path)
    return load_study(folder)


def verdicts(study: Study) -> dict[str, tuple[str, str]]:
    """As measured: the laws are about squared loss, on which no trial is trained."""
    return {checked.claim.id: (checked.as_measured, checked.reason) for checked in check_claims(study)}


def test_plateaus_and_equilibrium_in_numbers() -> None:
    config = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "schedule": "constant"}
    assert plateaus(config) == pytest.approx({"small": 2.0, "large": 38.0})
    assert plateaus({**config, "momentum": 0.0}) == pytest.approx({"small": 20.0, "large": 20.0})
    for other in ({"optimizer": "adamw"}, {"nesterov": True}, {"schedule": "cosine"}, {"warmup_epochs": 1}):
        assert np.isnan(list(plateaus({**config, **other}).values())).all()
    assert angular_equilibrium(config) == pytest.approx(np.sqrt(2 * 0.1 * 0.0005 / 1.9))


def test_each_law_has_its_verdict_from_the_cells_it_is_about(tmp_path: Path) -> None:
    found = verdicts(write(tmp_path, {(16, 0.0): 1.05, (16, 0.9): 1.1, (512, 0.9): 1.1}))
    assert found["sharpness-without-momentum"][0] == "reproduced"
    assert found["sharpness-with-momentum-small-batches"][0] == "reproduced"
    assert found["sharpness-with-momentum-large-batches"][0] == "contradicted", "19 times as much is predicted"
    assert (
        verdicts(write(tmp_path / "law", {(512, 0.9): 19.0}))["sharpness-with-momentum-large-batches"][0]
        == "reproduced"
    )


def test_the_cell_that_is_farthest_from_a_law_decides(tmp_path: Path) -> None:
    claims = {c.claim.id: c for c in check_claims(write(tmp_path, {(16, 0.0): 1.0, (64, 0.0): 1.05, (512, 0.0): 0.5}))}
    claim = claims["sharpness-without-momentum"]
    assert (claim.verdict, claim.as_measured, claim.num_seeds) == ("undetermined", "contradicted", 3)
    assert claim.value == pytest.approx(0.5, rel=1e-3)
    width = math.log10(claim.high / claim.low) / 2
    spread = np.log10([0.98, 1.0, 1.02]).std(ddof=1) / math.sqrt(3)
    assert width == pytest.approx(special.stdtrit(2, 1 - 0.025 / 3) * spread), (
        "the intervals of three cells hold at once"
    )
    assert claim.reason == (
        "other loss: cross-entropy, the claim is about squared loss; of 3 cells the farthest: batch 512, momentum 0.0"
    )


def test_what_the_study_lacks_is_said(tmp_path: Path) -> None:
    found = verdicts(write(tmp_path / "cosine", {(16, 0.0): 1.0}, schedule="cosine"))
    verdict, reason = found["sharpness-without-momentum"]
    assert verdict == "undetermined"
    assert "schedule is cosine instead of constant" in reason
    falling = write(tmp_path / "negative", {(16, 0.0): -0.1})
    assert "not positive in 3 of 3 trials" in verdicts(falling)["sharpness-without-momentum"][1]
    verdict, reason = found["sharpness-with-momentum-small-batches"]
    assert (verdict, reason) == ("undetermined", "missing cells: the study has none with such momentum and batch sizes")


def test_the_table_holds_measured_and_predicted(tmp_path: Path) -> None:
    study = write(tmp_path, {(16, 0.9): 1.5, (512, 0.9): 19.0})
    frame = build_tables(study, ("stability",))["stability"].frame
    assert frame["sharpness"].tolist() == pytest.approx([3.0, 38.0])
    assert frame["over_small"].tolist() == pytest.approx([1.5, 19.0])
    assert frame["over_large"].tolist() == pytest.approx([1.5 / 19, 1.0])
    assert frame["seeds"].tolist() == [3, 3]


def test_the_figure_is_on_the_scale_of_two_over_the_learning_rate(tmp_path: Path) -> None:
    study = write(tmp_path, {(16, 0.0): 1.5, (16, 0.9): 1.0})
    (subject,) = FIGURE.subjects(study)
    data = FIGURE.build(study, subject)
    rows: pd.DataFrame = data.sharpness.rows
    assert rows.loc[rows["epoch"] == 3, "mean"].tolist() == pytest.approx([1.5, 0.1])
    assert rows.loc[rows["epoch"] == 1, "mean"].tolist() == pytest.approx([50 * RATE / 2] * 2)
    dashed = []
    assert FIGURE.draw is not None
    for axes in FIGURE.draw(data, subject).axes:
        heights = [np.unique(np.asarray(line.get_ydata())) for line in axes.lines if line.get_linestyle() != "-"]
        dashed.append(sorted({float(height[0]) for height in heights if len(height) == 1}))
    assert dashed[0] == pytest.approx([1.0])
    assert dashed[1] == pytest.approx([0.1, 1.9])


def test_a_study_that_has_not_measured_it_says_so(tmp_path: Path) -> None:
    write_synthetic_study(tmp_path, epochs=2, seeds=[0])
    study = load_study(tmp_path)
    assert "stability" not in build_tables(study)
    assert not list(FIGURE.subjects(study)), "nobody asked for it"
    with pytest.raises(NothingToDraw, match="batch sharpness was not measured"):
        FIGURE.build(study, Subject())


def test_the_noise_scale_is_judged_where_branches_measured_the_critical_batch_size(tmp_path: Path) -> None:
    """The example study of branches leaves every interval open; a study without branches says what it lacks."""
    found = {c.claim.id: c for c in check_claims(replace(load_study(EXAMPLES / "branch-width4"), claims_file=CLAIMS))}
    claim = found["noise-scale-predicts-critical-batch-size"]
    assert claim.verdict == "undetermined"
    assert "is open at 2 of 2 branch points" in claim.reason
    reason = verdicts(write(tmp_path, {(16, 0.0): 1.0}))["noise-scale-predicts-critical-batch-size"][1]
    assert reason == "no branches with this scaling of the learning rate ([branch] in a grid file)"


def test_the_ratio_of_noise_scale_and_critical_batch_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = write(tmp_path, {(16, 0.0): 1.0})
    points = [
        BranchPoint(0, "a", epoch, "linear", 3072, 32, (32, 64), (0, 1, 2), np.zeros((2, 3)), Located(100.0, 90.0, 110.0), Located(ratio * 100.0, 90.0, 140.0))
        for epoch, ratio in ((1, 0.9), (3, 1.2), (5, 1.0))
    ]  # fmt: skip
    monkeypatch.setattr("analysis.claims.kinds.critical_batch.list_points", lambda study: points)
    (claim,) = (c for c in check_claims(study) if c.claim.id == "noise-scale-predicts-critical-batch-size")
    assert (claim.verdict, claim.num_seeds) == ("reproduced", 3)
    assert (claim.value, claim.low, claim.high) == pytest.approx((1.2, 90 / 110, 140 / 90))
    assert claim.reason == "of 3 branch points the farthest: a, epoch 3"
