"""Grid files and overrides: the shipped grids, what a study is made of, and every refusal."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.claims.claims_file import load_claims
from analysis.claims.measures import unmet_config
from study.spec.errors import SpecError
from study.spec.grid_file import check_study_name, list_grids, load_grid, parse_grid, parse_seeds
from study.spec.study_spec import build_spec
from tests.support.made_up_inputs import try_inputs
from trainable.config import trial_id

MINIMAL = 'name = "mine"\n[grid]\nbatch_size = [32, 64]\n'


def test_the_paper_grid_is_the_published_one() -> None:
    spec = build_spec(load_grid("paper"))
    assert [(c.config["batch_size"], c.config["learning_rate"]) for c in spec.cells] == [(64, 0.15), (128, 0.2)]
    assert all(c.config["epochs"] == 25 and c.config["width"] == 64 for c in spec.cells)
    assert [c.published["final_test_accuracy"] for c in spec.cells] == [0.9310, 0.9239]
    assert spec.factors == ("batch_size", "learning_rate")
    assert (spec.name, spec.reductions, spec.seeds) == ("paper", (), (0,))


def test_the_factorial_grid_tells_the_two_factors_apart() -> None:
    spec = build_spec(load_grid("factorial"))
    assert [(c.config["batch_size"], c.config["learning_rate"]) for c in spec.cells] == [
        (64, 0.15), (64, 0.2), (128, 0.15), (128, 0.2)
    ]  # fmt: skip
    assert [bool(c.published) for c in spec.cells] == [True, False, False, True]


@pytest.mark.parametrize("name", list_grids())
def test_every_shipped_grid_is_a_study(name: str) -> None:
    spec = build_spec(load_grid(name))
    assert spec.name == name
    assert len(spec.trial_configs()) == len(spec.cells) * len(spec.seeds)


def test_overrides_make_a_reduced_study_with_a_name_of_its_own() -> None:
    spec = build_spec(load_grid("paper"), overrides={"width": 8, "epochs": 5, "train_limit": 5000}, seeds=(0, 1))
    assert spec.name == "paper-width=8-epochs=5-train_limit=5000"
    assert spec.reductions == (
        "epochs: 5 instead of 25",
        "width: 8 instead of 64",
        "training images: 5000 instead of all",
    )
    assert {(c.width, c.epochs, c.train_limit) for c in spec.trial_configs()} == {(8, 5, 5000)}
    assert [c.seed for c in spec.trial_configs()] == [0, 0, 1, 1]
    assert spec.cells[0].published  # still shown beside; the reduction is said


def test_trials_are_the_same_whatever_the_study_is_called() -> None:
    plain = build_spec(load_grid("paper"))
    assert plain.trial_configs() == build_spec(load_grid("paper"), name="other").trial_configs()


def test_defaults_fill_only_what_the_grid_leaves_open() -> None:
    grid = parse_grid('name = "g"\n[base]\nprecision = "fp32"\n[grid]\nbatch_size = [32]\n', "g")
    assert build_spec(grid, defaults={"precision": "bf16"}).cells[0].config["precision"] == "fp32"
    assert build_spec(parse_grid(MINIMAL, "g"), defaults={"precision": "bf16"}).cells[0].config["precision"] == "bf16"


def test_the_paper_grid_asks_for_the_published_precision_on_gpus_and_keeps_its_trials_on_cpus() -> None:
    spec = build_spec(load_grid("paper"))
    assert spec.gpu_precision == "published"
    ids = [trial_id(config, "data") for config in spec.trial_configs()]
    assert ids == ["a997cdf3ed954de6", "c59fd2b1a7540353"], (
        "of commit 2de36d5, the first version that studies are kept of"
    )
    on_gpu = build_spec(load_grid("paper"), defaults={"precision": str(spec.gpu_precision)})
    needs = load_claims().claims[0].needs
    assert [unmet_config(cell, needs, {}) for cell in on_gpu.cells] == [[], []], "so the claims are judged"
    assert {build_spec(load_grid(name)).gpu_precision for name in list_grids() if name != "paper"} == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ]\n", "line 1"),
        ('name = "x"\n', "no cells"),
        ("[grid]\nbatch_size = [1]\n", "name is missing"),
        (MINIMAL + "[base]\nwidht = 3\n", "did you mean width"),
        (MINIMAL + "[base]\nseed = 3\n", "use seeds"),
        (MINIMAL + "[extra]\n", "unknown key 'extra'"),
        ('gpu_precision = "tf32"\n' + MINIMAL, "is not one of fp32, bf16, published"),
        ('gpu_precision = ["fp32"]\n' + MINIMAL, "is not one of fp32, bf16, published"),
        ('name = "x"\n[grid]\nbatch_size = 64\n', "is not a list of values"),
        ('name = "x"\n[grid]\nbatch_size = []\n', "is not a list of values"),
        ('name = "x"\ncells = [1]\n', "something else than fields"),
        ('name = "x"\n[[cells]]\nlabel = "only"\n', "something else than fields"),
        ('name = "x"\n[[cells]]\nlabel = 3\nbatch_size = 3\n', "is not a text"),
        ('name = "x"\nseeds = []\n[grid]\nbatch_size=[1]\n', "no seeds"),
        ('name = "x"\nseeds = [1, 1]\n[grid]\nbatch_size=[1]\n', "given twice"),
        ('name = "x"\nseeds = [-1]\n[grid]\nbatch_size=[1]\n', "seed -1"),
        ('name = "../x"\n[grid]\nbatch_size=[1]\n', "study name"),
        (MINIMAL + "[analysis]\nequivalence_margin = 5\n", "equivalence_margin"),
        (MINIMAL + "[analysis]\nmargin = 5\n", "unknown key 'margin'"),
        (MINIMAL + "[[published]]\nfinal_test_accuracy = 0.9\n", "needs cell"),
        (MINIMAL + "[[published]]\ncell = {batch_size = 7}\nfinal_test_accuracy = 0.9\n", "no cell of the grid"),
        (MINIMAL + "[[published]]\ncell = {batch_size = 32}\nspeed = 0.9\n", "not a cell metric"),
        (MINIMAL + '[[published]]\ncell = {batch_size = 32}\ngap = "a"\n', "is not a number"),
        ('name = "x"\n[grid]\nbatch_size = [1,2,3]\n' + "".join(
            f"{f} = [{','.join(str(i / 100) for i in range(1, 60))}]\n" for f in ("learning_rate", "momentum", "weight_decay")
        ), "more than 100,000 cells"),
    ],
)  # fmt: skip
def test_a_bad_grid_file_is_refused_in_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_grid(text, "mine.toml")
    assert str(caught.value).startswith("grid file mine.toml: ")
    assert "\n" not in str(caught.value)


def test_unknown_and_unreadable_grids(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean paper"):
        load_grid("papr")
    with pytest.raises(SpecError, match="No such file"):
        load_grid(str(tmp_path / "missing.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_grid(str(tmp_path / "binary.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(SpecError, match="Is a directory"):
        load_grid(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch_size": 32}, "the grid studies batch_size itself"),
        ({"seed": 3}, "use --seeds"),
        ({"train_limit": 40}, "leaves no full batch"),
    ],
)
def test_overrides_that_make_no_sense_are_refused(overrides: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_spec(load_grid("paper"), overrides=overrides)


def test_a_cell_given_twice_is_refused() -> None:
    grid = parse_grid('name = "x"\n[grid]\nbatch_size = [64]\n[[cells]]\nbatch_size = 64\n', "x")
    with pytest.raises(SpecError, match="same configuration"):
        build_spec(grid)


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("0,4,7", (0, 4, 7)), ("5,", (5,))])
def test_seeds_are_a_number_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "a", "1.5", ",", "1,1", "1,b", "99999999999", ""])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "/a", ".hidden", "a b", "a\n", "ä", "-x", "x" * 200, "a\0"]
)
def test_study_names_cannot_leave_the_results_folder(name: str) -> None:
    with pytest.raises(SpecError, match="study name"):
        check_study_name(name)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    ["name", "title", "seeds", "base", "grid", "cells", "published", "analysis", "batch_size", "cell", "x"]
)


@try_inputs(1500)
@given(st.dictionaries(_KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=5))
def test_no_content_of_a_grid_file_ends_in_a_traceback(content: dict[str, object]) -> None:
    with contextlib.suppress(SpecError):
        build_spec(parse_grid(_to_toml(content), "fuzz"))


@try_inputs(500)
@given(st.text(max_size=200))
def test_no_text_of_a_grid_file_ends_in_a_traceback(text: str) -> None:
    with contextlib.suppress(SpecError):
        build_spec(parse_grid(MINIMAL + text, "fuzz"))


def _to_toml(content: object) -> str:
    """TOML of what TOML can say; the rest becomes text that is no TOML, which is a case too."""
    if not isinstance(content, dict):
        return repr(content)
    return "\n".join(f"{_quoted(key)} = {_inline(value)}" for key, value in content.items())


def _inline(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(c):08x}" if not c.isascii() or not c.isalnum() else c for c in text) + '"'


def test_the_fuzz_writes_toml() -> None:
    text = _to_toml({"name": "a b", "grid": {"batch_size": [1, 2.5, True]}})
    assert tomllib.loads(text) == {"name": "a b", "grid": {"batch_size": [1, 2.5, True]}}


def test_fields_without_effect_are_noted_and_cells_that_train_the_same_are_refused() -> None:
    text = 'name = "mine"\n[base]\nstep_factor = 0.5\n[grid]\nschedule = ["cosine", "step"]\n'
    spec = build_spec(parse_grid(text, "mine.toml"))
    assert spec.without_effect() == ["step_factor=0.5 changes nothing with schedule=cosine (1 of 2 cells)"]
    text = 'name = "mine"\n[grid]\nstep_factor = [0.1, 0.5]\n'
    with pytest.raises(
        SpecError, match=r"train the same: step_factor=0\.5 changes nothing with schedule=cosine; remove one"
    ):
        build_spec(parse_grid(text, "mine.toml"))


def test_claims_about_the_published_training_need_its_optimizer_and_schedule() -> None:
    needs = next(claim for claim in load_claims().claims if claim.id == "test-accuracy-experiment-1").needs
    overrides: dict[str, str | float] = {"optimizer": "adamw", "schedule": "constant", "label_smoothing": 0.1}
    cell = build_spec(load_grid("paper"), overrides=overrides).cells[0]
    unmet = unmet_config(cell, {name: needs[name] for name in overrides}, {})
    assert unmet == [
        "optimizer is adamw instead of sgd", "schedule is constant instead of cosine", "label_smoothing is 0.1 instead of 0.0",
    ]  # fmt: skip
