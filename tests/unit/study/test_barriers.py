"""`study barriers` on trials that were trained, as far as the figure; and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import study.barriers
from analysis.drawing.style import NothingToDraw
from analysis.figures.barriers import FIGURE, build_barriers
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from study.folder.ledger import consolidate
from study.folder.repair import write_study
from tests.support.studies import build_cell, build_study
from trainable.checkpoint import list_checkpoints
from trainable.config import TrialConfig, trial_id
from trainable.data.data_set import load_data
from trainable.trial import Placement, run_trial

CONFIG = TrialConfig(dataset="synthetic", width=1, epochs=1, batch_size=32, learning_rate=0.05, train_limit=96, test_limit=20)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two cells that differ in the learning rate, two seeds, one epoch."""
    data, folder = load_data("synthetic"), StudyFolder(tmp_path_factory.mktemp("study"))
    configs = [replace(CONFIG, learning_rate=rate) for rate in (0.05, 0.2)]
    cells = [
        build_cell(f"lr {c.learning_rate}", **{n: v for n, v in c.to_dict().items() if n != "seed"}) for c in configs
    ]
    write_study(folder, build_study(cells, (0, 1), 96, {"fingerprint": data.fingerprint, "dataset": "synthetic"}, {}))
    for config in (replace(c, seed=seed) for c in configs for seed in (0, 1)):
        run_trial(config, data, folder.trial(trial_id(config, data.fingerprint)), Placement())
    consolidate(folder)
    return folder


def test_pairs_share_their_seed_and_the_figure_has_a_number_for_each_pair_of_cells(
    trained: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not list(FIGURE.subjects(load_study(trained)))
    with pytest.raises(NothingToDraw, match="study barriers"):
        build_barriers(load_study(trained))
    assert study.barriers.main([str(trained.path), "--points", "3", "--images", "64"]) == 0
    assert "2 pairs: barriers from " in capsys.readouterr().out
    rows = trained.read_records("barriers").to_pylist()
    seeds = {row["trial_id"]: row["seed"] for row in trained.read_records("trials").to_pylist()}
    assert {(seeds[row["first"]], seeds[row["second"]]) for row in rows} == {(0, 0), (1, 1)}
    data = build_barriers(load_study(trained))
    (pair,) = data.rows.to_dict("records")
    assert (pair["cell_a"], pair["cell_b"], pair["seeds"]) == ("lr 0.05", "lr 0.2", 2)
    assert pair["barrier"] == pytest.approx(sum(row["barrier"] for row in rows) / 2)
    assert FIGURE.draw is not None
    figure = FIGURE.draw(data, next(iter(FIGURE.subjects(load_study(trained)))))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{pair['barrier']:.2f}"]


def test_what_cannot_be_measured_is_said_in_one_line(trained: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.barriers.main([str(trained.path), "--points", "2"]) == 2
    assert capsys.readouterr().err == "error: --points is at least 3, --images at least 2\n"
    for trial in trained.trials.iterdir():
        for path in list_checkpoints(trial):
            path.unlink()
    assert study.barriers.main([str(trained.path)]) == 2
    said = capsys.readouterr().err
    assert "no checkpoint; barriers are between the final weights" in said
    assert said.count("\n") == 1


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.barriers.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
