"""[search] tables: what they mean, and every bad one refused in one line before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.search.objectives import list_objectives
from study.driver.search_phase import check_budget, check_workers
from study.plan.resources import Machine, ResourceError, TrialResources
from study.run import main
from study.spec.errors import SpecError
from study.spec.grid_file import load_grid, parse_grid
from study.spec.pruners import list_pruners
from study.spec.samplers import list_samplers
from study.spec.search_spec import FIRST_SEARCH_SEED, training_seed
from study.spec.study_spec import StudySpec, build_spec
from tests.support.images import make_image_data
from tests.support.journals import small_spec
from trainable.config import TrialConfig
from trainable.data import kinds
from trainable.data.data_set import split_data
from trainable.records.columns import EPOCH_INSTRUMENTS


def grid_text(search: str = "trials = 4", space: str = "batch_size = { choices = [32, 64] }", rest: str = "") -> str:
    return f'name = "g"\n{rest}\n[search]\n{search}\n[search.space]\n{space}\n'


def build(text: str, **build_options: Any) -> StudySpec:
    return build_spec(parse_grid(text, "g.toml"), **build_options)


SAMPLERS, PRUNERS, OBJECTIVES = list(list_samplers()), list(list_pruners()), list(list_objectives())
CADENCES = sorted({one.every for one in EPOCH_INSTRUMENTS if isinstance(one.every, str)})


@pytest.fixture(autouse=True)
def no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has read no images yet, whatever other tests have read."""
    monkeypatch.setattr(kinds, "_sizes", {})


def test_what_is_shipped_is_declared() -> None:
    assert {"gp", "nsga2", "random", "tpe"} <= set(SAMPLERS)
    assert {"asha", "median", "none"} <= set(PRUNERS)
    assert {"train_flops", "train_time_s", "val_accuracy", "val_loss"} <= set(OBJECTIVES)
    assert {"noise_scale_every_epochs", "batch_sharpness_every_epochs", "hessian_trace_every_epochs"} <= set(CADENCES)


BAD_TABLES = {
    "unknown key 'sampelr'; did you mean sampler": grid_text("sampelr = 'tpe'"),
    f"sampler 'grid' is not one of {', '.join(SAMPLERS)}": grid_text("sampler = 'grid'"),
    f"pruner 'hyperband' is not one of {', '.join(PRUNERS)}": grid_text("pruner = 'hyperband'"),
    "a search never looks at the test set": grid_text("objective = 'test_accuracy'"),
    "'final_test_accuracy': a search never looks": grid_text("objective = ['val_accuracy', 'final_test_accuracy']"),
    f"objective 'accuracy' is not one of {', '.join(OBJECTIVES)}": grid_text("objective = 'accuracy'"),
    "objective 'val_loss' is given twice": grid_text("objective = ['val_loss', 'val_loss']"),
    "[search] objective: give one name, or a list of two": grid_text(
        "objective = ['val_loss', 'val_accuracy', 'train_flops']"
    ),
    "alone is best for a network that learns nothing": grid_text("objective = 'train_flops'\npruner = 'none'"),
    "pruner 'asha' needs one objective": grid_text("objective = ['val_accuracy', 'train_flops']\npruner = 'asha'"),
    "[search] objective 3: give one name": grid_text("objective = 3"),
    "[search] trials 0: should be greater than or equal to 1": grid_text("trials = 0"),
    "[search] wall_time_h -1: should be greater than 0": grid_text("wall_time_h = -1"),
    "[search] gpu_hours True: is not a number": grid_text("gpu_hours = true"),
    "[search] top_k 0: should be greater than or equal to 1": grid_text("top_k = 0"),
    "[search] seed 200001: should be less than or equal to 200000": grid_text("seed = 200001"),
    "[search] confirmation_seeds 'all': give a number of seeds": grid_text("confirmation_seeds = 'all'"),
    "[search] confirmation_seeds.1 0.5: should be a valid integer": grid_text("confirmation_seeds = [1, 0.5]"),
    "seeds and [search] confirmation_seeds are both given": grid_text("confirmation_seeds = 2", rest="seeds = [0]"),
    "unknown field 'batchsize': did you mean batch_size": grid_text(space="batchsize = { choices = [1, 2] }"),
    "seed cannot be searched: every searched trial": grid_text(space="seed = { low = 0, high = 9 }"),
    "train_limit cannot be searched": grid_text(space="train_limit = { choices = [100, 200] }"),
    **{
        f"{cadence} cannot be searched: it changes what is recorded": grid_text(
            space=f"{cadence} = {{ choices = [0, 1] }}"
        )
        for cadence in CADENCES
    },
    "[search] space.learning_rate: low 0.5 is above high 0.1; swap them": grid_text(
        space="learning_rate = { low = 0.5, high = 0.1 }"
    ),
    "low and high are both 0.1": grid_text(space="learning_rate = { low = 0.1, high = 0.1 }"),
    "[search] space.batch_size.choices: List should have at least 2 items": grid_text(
        space="batch_size = { choices = [] }"
    ),
    "[search] space.batch_size.choices: a choice is given twice": grid_text(
        space="batch_size = { choices = [32, 32] }"
    ),
    "starts above 0, not at 0": grid_text(space="weight_decay = { low = 0, high = 0.1, log = true }"),
    "a logarithmic range has no step": grid_text(space="momentum = { low = 0.1, high = 0.9, log = true, step = 0.1 }"),
    "step 2 does not fit between": grid_text(space="momentum = { low = 0.1, high = 0.9, step = 2 }"),
    "is a whole number, and so are low": grid_text(space="batch_size = { low = 32.5, high = 64 }"),
    "[search] space.momentum.low 'a': is not a number": grid_text(space="momentum = { low = 'a', high = 0.9 }"),
    "[search] space.momentum: give { choices = [...] }, or { low": grid_text(space="momentum = [0.1, 0.9]"),
    "give choices; every width": grid_text(space="width = { low = 8, high = 64 }"),
    "batch_size is in [grid] and in [search.space]": grid_text(rest="[grid]\nbatch_size = [32, 64]"),
    "[grid] and [search] do not go together": grid_text(rest="[grid]\nmomentum = [0.1, 0.9]"),
    "[search.space] is missing": 'name = "g"\n[search]\ntrials = 3\n',
    "search is not a table": 'name = "g"\nsearch = 3\n',
}


@pytest.mark.parametrize("message", BAD_TABLES)
def test_bad_tables_are_refused_in_one_line(message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_grid(BAD_TABLES[message], "g.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "the search has no end: give --trials N": (grid_text(""), {}),
    "has batch_size 128, outside of [search.space]: one of 32, 64": (grid_text(rest="[base]\nbatch_size = 128"), {}),
    "has learning_rate 0.15, outside of [search.space]: 0.2 to 0.3": (
        grid_text(space="learning_rate = { low = 0.2, high = 0.3 }"), {},
    ),
    "has another width than the first one, but [search.space] has no width": (
        grid_text() + "[[cells]]\nwidth = 8\n[[cells]]\nwidth = 16\n", {},
    ),
    "--set batch_size=...: the grid searches batch_size": (grid_text(), {"overrides": {"batch_size": 32}}),
    "momentum=1.5 is not a number": (grid_text(space="momentum = { low = 0.1, high = 1.5 }"), {}),
    "leaves no full batch of batch_size=512": (
        grid_text(space="batch_size = { choices = [64, 512] }", rest="[base]\ntrain_limit = 500"), {},
    ),
    "warmup_epochs=5 leaves nothing of epochs=5": (
        grid_text(space="warmup_epochs = { low = 0, high = 5 }", rest="[base]\nepochs = 5"), {},
    ),
    "[search.space] nesterov=true needs a momentum above 0": (
        grid_text(space="nesterov = { choices = [true, false] }\nmomentum = { low = 0.0, high = 0.9 }"), {},
    ),
    "dataset='cifar11' is not known: did you mean cifar10?": (grid_text(), {"overrides": {"dataset": "cifar11"}}),
    "dataset=images: say with validation_size how many": (grid_text(), {"overrides": {"dataset": "images"}}),
    "seeds from 1,000,000 on are those of searched trials": (grid_text(), {"seeds": [1_000_000]}),
    "a seed is given twice": (grid_text("trials = 4\nconfirmation_seeds = [1, 1]"), {}),
    "seed 1000000: seeds from 1,000,000 on are those of searched": (
        grid_text("trials = 4\nconfirmation_seeds = [1000000]"), {},
    ),
    "test_limit=0: the winners of a search are reported on the test set": (grid_text(rest="[base]\ntest_limit = 0"), {}),
    "the grid has no ranges to search": ('name = "g"\n[grid]\nbatch_size = [32]\n', {"trials": 3}),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_STUDIES)
def test_bad_studies_are_refused_in_one_line(message: str) -> None:
    text, options = BAD_STUDIES[message]
    with pytest.raises(SpecError) as caught:
        build(text, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_says_it_in_one_line_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.toml"
    path.write_text(grid_text(rest='[base]\ndataset = "synthetic"\ntrain_limit = 1000'))
    tries = {
        "--search, --trials: the grid has no ranges": ["--grid", "demo", "--search", "optuna"],
        "--max-concurrent 1000: only": ["--grid", str(path), "--max-concurrent", "1000"],
        "--trials -3": ["--grid", str(path), "--trials", "-3"],
    }
    for message, arguments in tries.items():
        assert main([*arguments, "--results", str(tmp_path / "results")]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_workers_and_budgets_that_the_machine_cannot_have() -> None:
    machine = Machine(num_cpus=8, num_gpus=2)
    check_workers(4, machine, TrialResources(2, 0.5, 4))
    with pytest.raises(ResourceError, match=r"only 4 trials fit at a time here \(8 CPUs, 2 GPUs\)"):
        check_workers(5, machine, TrialResources(2, 0.5, 4))
    search = small_spec().search
    assert search is not None
    check_budget(search, TrialResources(1, 0.0, 2))
    gpu = build(grid_text("gpu_hours = 2")).search
    assert gpu is not None
    with pytest.raises(ResourceError, match="gpu_hours never ends a search without GPUs"):
        check_budget(gpu, TrialResources(1, 0.0, 2))
    check_budget(gpu, TrialResources(1, 1.0, 2))


def test_what_searched_and_confirming_trials_see() -> None:
    spec = build_spec(load_grid("bs_lr_search"), trials=7, seeds=[4, 5])
    assert spec.search is not None
    assert (spec.search.trials, spec.search.confirmation_seeds, spec.seeds) == (7, (4, 5), (4, 5))
    assert (spec.search_base["test_limit"], spec.search_base["validation_size"]) == (0, 5_000)
    assert {(c.test_limit, c.validation_size) for c in spec.trial_configs()} == {(None, 0)}
    assert [cell.label for cell in spec.cells] == ["Experiment 1", "Experiment 2"]
    assert [values["learning_rate"] for values in spec.search.enqueued] == [0.15, 0.2]
    assert spec.cells[0].published["final_test_accuracy"] == 0.931
    seeds = {training_seed(spec.search, number) for number in range(100)}
    assert len(seeds) == 100
    assert min(seeds) >= FIRST_SEARCH_SEED > max(spec.seeds)
    limited = build_spec(load_grid("bs_lr_search"), overrides={"train_limit": 10_000})
    assert limited.search_base["validation_size"] == 1_000
    own = build(grid_text(rest="[base]\nvalidation_size = 300"))
    assert own.search_base["validation_size"] == 300
    assert own.cells[0].config["validation_size"] == 0
    assert build_spec(load_grid("bs_lr_search"), searching=False).search is None


def test_searched_trials_learn_from_and_are_validated_on_training_images_only() -> None:
    data = make_image_data()
    config = TrialConfig(dataset="synthetic", batch_size=16, validation_size=60, test_limit=0)
    parts = split_data(data, config)
    assert len(parts.test.labels) == 0
    train = {image.tobytes() for image in data.train_images}
    test = {image.tobytes() for image in data.test_images}
    validated, learned = ({image.tobytes() for image in part.images} for part in (parts.validation, parts.train))
    assert validated <= train
    assert not validated & test
    assert not validated & learned
    assert len(parts.validation.labels) == 60
    assert len(parts.train.labels) == len(data.train_labels) - 60


def test_steps_hold_only_what_they_reach() -> None:
    space = "momentum = { low = 0.1, high = 0.9, step = 0.2 }"
    search = build(grid_text(space=space, rest="[base]\nmomentum = 0.7")).search
    assert search is not None
    assert search.enqueued == ({"momentum": 0.7},)
    with pytest.raises(SpecError, match=r"has momentum 0\.8, outside of"):
        build(grid_text(space=space, rest="[base]\nmomentum = 0.8"))
