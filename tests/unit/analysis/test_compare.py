"""Merging studies, and refusing those that are not comparable."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.sources.compare import StudiesDifferError, merge_studies
from analysis.tables import build_tables
from tests.support.studies import Truth, build_cell, paper_cells, write_synthetic_study
from trainable.records import build_table

SMALL = {"epochs": 2, "width": 4, "instrument_every_steps": 390}


@pytest.fixture
def paper(tmp_path: Path) -> StudyFolder:
    return write_synthetic_study(tmp_path / "paper", cells=paper_cells(**SMALL), seeds=[0, 1], name="paper")


def test_cells_and_trials_of_both(paper: StudyFolder, tmp_path: Path) -> None:
    cells = [paper_cells(**SMALL)[1], build_cell("Experiment 1", batch_size=256, **SMALL)]
    outcomes = {(0, 1): "failed"}
    other = write_synthetic_study(
        tmp_path / "other", cells=cells, seeds=[1, 2], name="other", outcomes=outcomes, equivalence_margin=0.001,
        reductions=("width: 4 instead of 64",),
    )  # fmt: skip
    merged = merge_studies([other, paper], tmp_path / "merged")
    study = load_study(merged)
    assert study.info.name == "other+paper"
    assert [cell.label for cell in study.info.cells] == ["Experiment 2", "Experiment 1 (other)", "Experiment 1 (paper)"]
    assert set(study.info.factors) == {"batch_size", "learning_rate"}
    assert study.info.equivalence_margin == 0.001
    assert study.info.reductions == ("other: width: 4 instead of 64",)
    seeds = study.trials.groupby("label", sort=False)["seed"].apply(list).to_dict()
    assert seeds == {"Experiment 2": [0, 1, 2], "Experiment 1 (other)": [1, 2], "Experiment 1 (paper)": [0, 1]}
    # Experiment 2, seed 1 failed in one study and completed in the other.
    assert study.trials["status"].unique().tolist() == ["completed"]
    assert len(study.epochs) == 7 * 2
    for kind in ("steps", "layers"):
        rows = merged.read_records(kind, ["trial_id", "epoch", "step"]).to_pandas()
        parts = [f.read_records(kind, ["trial_id"]).to_pandas()["trial_id"].astype("str") for f in (other, paper)]
        assert set(rows["trial_id"].astype("str")) == set(parts[0]) | set(parts[1])
    layers = merged.read_records("layers").to_pandas()
    assert not layers.duplicated(["trial_id", "step", "layer"]).any()
    assert len(merged.read_records("model")) == len(paper.read_records("model"))
    assert build_tables(study, ["comparison"])["comparison"].frame["seeds"].tolist() == [3, 2, 2]


def test_a_merged_study_measures_what_its_parts_measure(paper: StudyFolder, tmp_path: Path) -> None:
    other = write_synthetic_study(tmp_path / "other", cells=[build_cell("x", batch_size=256, **SMALL)], seeds=[0])
    merged = merge_studies([paper, other], tmp_path / "merged")
    frames = [build_tables(folder, ["comparison"])["comparison"].frame for folder in (merged, paper, other)]
    together = frames[0].set_index("cell_id")
    for part in frames[1:]:
        for row in part.to_dict("records"):
            assert together.loc[row["cell_id"], "final_test_accuracy_mean"] == row["final_test_accuracy_mean"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"fingerprint": "e" * 16, "source": "elsewhere"}}, ["the same data", "dddddddddddd", "eeeeeeeeeeee (elsewhere)"]),
        ({"code": {"fingerprint": "f" * 16, "commit": "abc"}}, ["the same code", "ffffffffffff (abc)"]),
        ({"code": {}}, ["the same code", "None"]),
    ],
)  # fmt: skip
def test_other_data_or_code_is_refused_with_the_difference(
    paper: StudyFolder, tmp_path: Path, change: dict[str, dict[str, str]], words: list[str]
) -> None:
    other = write_synthetic_study(tmp_path / "other", cells=paper_cells(**SMALL), truths=[Truth()], **change)  # type: ignore[arg-type]
    with pytest.raises(StudiesDifferError) as caught:
        merge_studies([paper, other], tmp_path / "merged")
    for word in [*words, str(paper.path), str(other.path)]:
        assert word in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_trials_of_other_code_in_a_study_that_claims_the_same(paper: StudyFolder, tmp_path: Path) -> None:
    other = write_synthetic_study(tmp_path / "other", cells=[build_cell("x", batch_size=256, **SMALL)], seeds=[0])
    rows = other.read_records("trials").to_pylist()
    other.write_records("trials", build_table("trials", [{**rows[0], "code_fingerprint": "patched"}]))
    with pytest.raises(StudiesDifferError, match=r"do not share their code_fingerprint: .*patched in "):
        merge_studies([paper, other], tmp_path / "merged")


def test_what_cannot_be_merged(paper: StudyFolder, tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match="two studies or more"):
        merge_studies([paper], tmp_path / "merged")
    with pytest.raises(StudyFolderError, match="is not empty"):
        merge_studies([paper, paper], paper.path)
    with pytest.raises(StudyFolderError, match="no such study folder"):
        merge_studies([paper, StudyFolder(tmp_path / "none")], tmp_path / "merged")


def test_a_study_and_itself_is_itself(paper: StudyFolder, tmp_path: Path) -> None:
    study = load_study(merge_studies([paper, paper], tmp_path / "merged"))
    assert len(study.trials) == 4
    assert [cell.label for cell in study.info.cells] == ["Experiment 1", "Experiment 2"]
