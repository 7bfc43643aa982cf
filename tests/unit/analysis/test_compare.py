"""Merging studies, and refusing those that are not comparable."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from analysis.comparison.pairs import compare_primary
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.sources.compare import StudiesDifferError, merge_studies
from analysis.tables import build_tables
from tests.support.studies import Truth, build_cell, paper_cells, write_synthetic_study
from trainable.records.tables import build_table

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


def _looking(folder: Path, batch_size: int, seeds: int, first: int | None, most: int | None = None) -> StudyFolder:
    """A study of two cells, looked at from `first` to `most` seeds, of which it took `seeds`; looked at once where first is None."""
    cells = [build_cell(f"lr {lr}", batch_size=batch_size, learning_rate=lr, **SMALL) for lr in (0.1, 0.2)]
    stopping = None if first is None else {"first": first, "most": most}
    return write_synthetic_study(
        folder, cells=cells, seeds=range(seeds), truths=[Truth(0.9), Truth(0.901)], layers=False,
        name=folder.name, stopping=stopping,
    )  # fmt: skip


def test_looks_of_sequential_studies_are_kept(tmp_path: Path) -> None:
    """No interval of the merged study is narrower than that of the study it is from: it has more pairs, and all their looks."""
    parts = [_looking(tmp_path / "a", 64, 5, 3, 20), _looking(tmp_path / "b", 128, 6, 4, 30)]
    merged = load_study(merge_studies(parts, tmp_path / "merged"))
    assert merged.info.stopping == {"first": 3, "most": 30}
    rows = {(row["cell_a"], row["cell_b"]): row for row in compare_primary(merged).to_dict("records")}
    for part in parts:
        (own,) = compare_primary(load_study(part)).to_dict("records")
        row = rows[own["cell_a"], own["cell_b"]]
        assert row["difference"] == own["difference"]
        assert row["high"] - row["low"] > own["high"] - own["low"]


@pytest.mark.parametrize(("seeds", "looks"), [(1, (2, 20)), (2, (2, 20)), (5, (3, 20)), (25, (3, 25))])
def test_a_study_that_was_looked_at_once_has_its_look_among_those_of_the_others(
    tmp_path: Path, seeds: int, looks: tuple[int, int]
) -> None:
    parts = [_looking(tmp_path / "once", 64, seeds, None), _looking(tmp_path / "often", 128, 3, 3, 20)]
    merged = load_study(merge_studies(parts, tmp_path / "merged"))
    assert merged.info.stopping == {"first": looks[0], "most": looks[1]}
    once, *_, often = compare_primary(merged).to_dict("records")
    assert [math.isfinite(pair["high"] - pair["low"]) for pair in (once, often)] == [seeds > 1, True]


def test_sequential_studies_of_other_seeds_are_refused(tmp_path: Path) -> None:
    """No plan of looks holds for pairs whose common seeds do not grow in one order."""
    often = _looking(tmp_path / "often", 128, 3, 3, 20)
    cells = [build_cell("x", batch_size=64, **SMALL)]
    for name, stopping in (("again", {"first": 3, "most": 20}), ("once", None)):
        other = write_synthetic_study(tmp_path / name, cells=cells, seeds=[7, 8, 9], name=name, stopping=stopping)
        with pytest.raises(StudiesDifferError, match=rf"often: 0, 1, 2, 3, 4; {name}: 7, 8, 9, 0, 1, ...\): leave out"):
            merge_studies([often, other], tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


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
