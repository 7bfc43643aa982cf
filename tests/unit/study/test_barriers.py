"""`study barriers` on trials that were trained, as far as the figure; and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
from trainable import user_code
from trainable.config import TrialConfig, trial_id
from trainable.data.data_set import load_data
from trainable.models import complete_config
from trainable.records.checkpoint import list_checkpoints
from trainable.trial import Placement, run_trial

CONFIG = TrialConfig(dataset="synthetic", width=1, epochs=1, batch_size=32, learning_rate=0.05, train_limit=96, test_limit=20)  # fmt: skip


NET = """
from torch import nn

def build(num_classes, input_shape, *, depth: int = 1):
    more = [nn.Conv2d(2, 2, 3) for _ in range(depth)]
    return nn.Sequential(nn.Conv2d(input_shape[0], 2, 3), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))
"""


def train(path: Path, configs: Sequence[TrialConfig], seeds: Sequence[int]) -> StudyFolder:
    """A study with a cell for each configuration."""
    data, folder = load_data("synthetic"), StudyFolder(path)
    cells = [build_cell(str(i), **{n: v for n, v in c.to_dict().items() if n != "seed"}) for i, c in enumerate(configs)]
    write_study(folder, build_study(cells, seeds, 96, {"fingerprint": data.fingerprint, "dataset": "synthetic"}, {}))
    for config in (replace(c, seed=seed) for c in configs for seed in seeds):
        run_trial(config, data, folder.trial(trial_id(config, data.fingerprint)), Placement())
    consolidate(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Two cells that differ in the learning rate, two seeds, one epoch."""
    return train(
        tmp_path_factory.mktemp("study"), [replace(CONFIG, learning_rate=rate) for rate in (0.05, 0.2)], (0, 1)
    )


def test_networks_with_other_fields_are_no_pair_and_code_comes_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "barriernet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    base = TrialConfig.from_dict({**CONFIG.to_dict(), "model": "barriernet:build", "width": 64})
    configs = [
        complete_config(replace(base, learning_rate=rate, model_fields=(("depth", depth),)), [tmp_path])
        for rate in (0.05, 0.2) for depth in (1, 2)
    ]  # fmt: skip
    folder = train(tmp_path / "study", configs, (0,))
    for name in [name for name in user_code._FINDER.sources if name == "barriernet"]:
        del user_code._FINDER.sources[name], sys.modules[name]
    assert study.barriers.main([str(folder.path), "--points", "3", "--images", "64"]) == 0
    assert "2 pairs: " in capsys.readouterr().out
    depth = {row["trial_id"]: row["config.model_fields"] for row in folder.read_records("trials").to_pylist()}
    assert all(depth[row["first"]] == depth[row["second"]] for row in folder.read_records("barriers").to_pylist())


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
    assert (pair["cell_a"], pair["cell_b"], pair["seeds"]) == ("0", "1", 2)
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
