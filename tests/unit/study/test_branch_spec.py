"""[branch] of a grid file: what it may say, the branches that follow, what they cost, and how a study keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.records.study_folder import StudyFolder
from study.page.blocks import list_trials
from study.page.live_study import read_live_study
from study.plan.epoch_times import epoch_images
from study.plan.estimate import list_work, rest_of_trial
from study.spec.errors import SpecError
from study.spec.grid_file import load_grid, parse_grid
from study.spec.study_spec import StudySpec, build_spec
from tests.support.branches import write_branched
from tests.support.readme import pages
from tests.support.studies import build_cell, build_study

GRID = """
name = "branched"
seeds = [0, 1]
[base]
dataset = "synthetic"
epochs = 6
train_limit = 1000
[[cells]]
batch_size = 32
[branch]
epochs = [4, 2]
batch_sizes = [64, 96]
scaling = ["linear", "sqrt"]
length = 2
"""


def build(text: str = GRID, **how: object) -> StudySpec:
    return build_spec(parse_grid(text, "test"), **how)  # type: ignore[arg-type]


def test_branches_of_each_trial_share_their_images_and_one_base() -> None:
    spec = build()
    assert len(spec.trial_configs()) == 2
    found = spec.branches_of(spec.trial_configs())
    own = [config for config in found if config.seed == 0 and config.branch_epoch == 2]
    assert [(c.branch_batch_size, c.branch_scaling) for c in own] == [
        (32, "none"), (64, "linear"), (96, "linear"), (64, "sqrt"), (96, "sqrt"),
    ]  # fmt: skip
    assert len(found) == 2 * 2 * 5
    assert {config.branch_images for config in found} == {960}  # what 32, 64 and 96 divide
    assert {config.last_epoch for config in found} == {4, 6}
    assert own[1].as_trained.learning_rate == 2 * own[1].learning_rate
    assert own[0].parent == spec.trial_configs()[0]


def test_a_plan_counts_branches_by_their_own_images_and_batch_size() -> None:
    spec = build()
    work = list_work(spec)
    assert len(work) == 2 + 20
    assert {(c.batch_size, c.epochs, epoch_images(c)[0]) for c in work[2:]} == {(s, 2, 960) for s in (32, 64, 96)}
    branch = spec.branches_of(spec.trial_configs())[0]
    assert rest_of_trial(branch, 3).epochs == 1


def test_study_json_keeps_what_is_branched(tmp_path: Path) -> None:
    spec = build()
    assert spec.branch is not None
    cells = [build_cell("one", dataset="synthetic")]
    folder = StudyFolder(tmp_path)
    folder.write_study(build_study(cells, [0], 100, {}, {"branch": spec.branch.to_dict()}))
    assert folder.read_study().branch == spec.branch.to_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("epochs = [4, 2]", "epoch = [4]"), "unknown key 'epoch'"),
        (("epochs = [4, 2]", "epochs = 4"), r"\[branch\] epochs is missing"),
        (("epochs = [4, 2]", "epochs = [0]"), "0 is not a whole number from 1"),
        (("epochs = [4, 2]", "epochs = [5]"), "end after epochs=6"),
        (('["linear", "sqrt"]', '"cubic"'), "scaling=.*not one or several of none, sqrt, linear"),
        (("length = 2", "tolerance = 0"), "tolerance=0 is not a loss above 0"),
        (("length = 2", "images = 100"), "branch_images=100 is no multiple of branch_batch_size=32"),
        (("[64, 96]", "[97]"), "no number of images up to 1,000 is a multiple of all batch sizes"),
        (("batch_size = 32", "batch_size = 32\nbranch_epoch = 1"), "branch_epoch: branches of a study are what"),
        (("[branch]", "[search]\n[branch]"), r"\[branch\] and \[search\] do not go together"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(change: tuple[str, str], said: str) -> None:
    assert change[0] in GRID
    with pytest.raises(SpecError, match=said) as raised:
        build(GRID.replace(*change, 1))
    assert "\n" not in str(raised.value)


def test_branch_fields_are_not_for_the_command_line() -> None:
    with pytest.raises(SpecError, match="branches are what"):
        build(overrides={"branch_epoch": 1})


def test_the_live_page_lists_branches_after_their_trials(tmp_path: Path) -> None:
    write_branched(tmp_path, {(64, 1): "running"})
    shown = list_trials(read_live_study(StudyFolder(tmp_path)))
    assert len(shown) == 3 + 12
    assert shown["label"].iloc[0] == "branch after epoch 2: batch 64, rate scaled linearly"
    assert shown["label"].tolist().count("the parent") == 3


def test_the_shipped_grid_and_the_one_that_the_page_shows_are_whole() -> None:
    shipped = build_spec(load_grid("branch"))
    assert shipped.branches_of(shipped.trial_configs())
    shown = pages()["docs/branching.md"].split("```toml\n")[1].split("```")[0]
    spec = build(shown)
    assert len(spec.branches_of(spec.trial_configs())) == 3 * 2 * (1 + 2 * 3)
