"""What moves together in a grid, and whether the proposed cells really tell it apart."""

from __future__ import annotations

import itertools
import time
import tomllib
from collections.abc import Sequence
from typing import Any

import pytest

from analysis.design.confounds import Confounds, count_updates, find_confounds
from analysis.design.grid_text import write_grid
from analysis.records.study_json import Cell
from study.spec.grid_file import parse_grid
from study.spec.study_spec import StudySpec, build_spec
from tests.support.studies import build_cell, paper_cells
from trainable.config import TrialConfig

TRAIN = 50_000


def _factors(cells: Sequence[Cell]) -> list[str]:
    return [name for name in cells[0].config if len({cell.config[name] for cell in cells}) > 1]


def _find(cells: Sequence[Cell]) -> Confounds:
    return find_confounds(cells, _factors(cells), TRAIN)


def _values(config: dict[str, Any]) -> dict[str, float]:
    """The four quantities of the worksheet, computed here once more."""
    updates = config["epochs"] * (TRAIN // config["batch_size"])
    return {
        "batch_size": config["batch_size"], "learning_rate": config["learning_rate"],
        "ratio": config["learning_rate"] / config["batch_size"], "updates": updates,
    }  # fmt: skip


def _separated(configs: Sequence[dict[str, Any]], held: str, changed: str) -> bool:
    """Are there two cells with about the same `held` and another `changed`?"""
    for one, other in itertools.combinations([_values(config) for config in configs], 2):
        same = {name: abs(one[name] - other[name]) <= 0.02 * max(one[name], other[name]) for name in one}
        if same[held] and not same[changed]:
            return True
    return False


def test_the_paper_grid_cannot_tell_anything_apart() -> None:
    found = _find(paper_cells())
    assert found.together == (("batch_size", "learning_rate", "ratio", "updates"),)
    assert (
        "Batch size, learning rate, learning rate / batch size and number of updates move together"
        in found.sentences[0]
    )
    assert bool(found)
    values = {quantity.name: [quantity.measure(cell.config) for cell in paper_cells()] for quantity in found.quantities}
    assert values["updates"] == [19_525, 9_750]
    assert values["ratio"] == pytest.approx([2.34e-3, 1.56e-3], abs=5e-6)


def test_the_proposed_cells_tell_the_paper_grid_apart() -> None:
    cells = paper_cells()
    found = _find(cells)
    configs = [*(cell.config for cell in cells), *found.extra_cells]
    assert found.sentences[-1] == "3 more cells would tell them apart."
    assert len(found.extra_cells) == 3
    for held, changed in itertools.permutations(_values(configs[0]), 2):
        assert _separated(configs, held, changed), (held, changed)
    # Each factor of the grid changes alone somewhere.
    for factor in ("batch_size", "learning_rate"):
        assert any(
            [name for name in one if one[name] != other[name]] == [factor]
            for one, other in itertools.combinations(configs, 2)
        )


def test_no_smaller_set_of_cells_would_do() -> None:
    """Every pair of cells from the levels that can matter, tried by brute force."""
    cells = paper_cells()
    levels = itertools.product((64, 128), (0.1, 0.15, 0.2, 0.3), (12, 13, 25, 50))
    candidates = [{**cells[0].config, "batch_size": b, "learning_rate": lr, "epochs": e} for b, lr, e in levels]
    wanted = set(itertools.permutations(_values(candidates[0]), 2))
    for pair in itertools.combinations(candidates, 2):
        configs = [*(cell.config for cell in cells), *pair]
        clean = set()
        for one, other in itertools.combinations(configs, 2):
            differ = {name for name in one if one[name] != other[name]}
            for held, changed in wanted:
                fields = {"batch_size": {"batch_size"}, "learning_rate": {"learning_rate"},
                          "ratio": {"batch_size", "learning_rate"}, "updates": {"batch_size", "epochs"}}  # fmt: skip
                if differ <= fields[held] | fields[changed] and _separated([one, other], held, changed):
                    clean.add((held, changed))
        assert clean != wanted


def test_the_factorial_grid_separates_its_factors_but_not_the_updates() -> None:
    found = _find([build_cell("", batch_size=b, learning_rate=lr) for b in (64, 128) for lr in (0.15, 0.2)])
    assert ("batch_size", "learning_rate") not in found.entangled
    assert ("learning_rate", "batch_size") not in found.entangled
    assert found.together == (("batch_size", "updates"),)
    assert found.sentences[-1].endswith(" would tell them apart.")


@pytest.mark.parametrize("config", [{"learning_rate": (0.1, 0.2)}, {"momentum": (0.5, 0.9)}, {"epochs": (5, 10)}, {}])
def test_a_single_factor_is_confounded_with_nothing(config: dict[str, tuple[float, float]]) -> None:
    name, values = next(iter(config.items()), ("momentum", (0.9,)))
    found = _find([build_cell("", **{name: value}) for value in values])
    assert not found
    assert found.sentences == ()
    assert found.extra_cells == ()


def test_any_two_fields_can_move_together() -> None:
    found = _find([build_cell("", weight_decay=1e-4, momentum=0.8), build_cell("", weight_decay=5e-4, momentum=0.9)])
    assert found.together == (("momentum", "weight_decay"),)
    assert len(found.extra_cells) == 1


def test_updates_count_what_the_loop_takes() -> None:
    assert count_updates(build_cell("").config, TRAIN) == 25 * 781
    assert count_updates(build_cell("", train_limit=5000, validation_size=1000, epochs=3).config, TRAIN) == 3 * 62


def test_a_thousand_cells_are_examined_at_once() -> None:
    cells = [build_cell("", batch_size=b, learning_rate=lr / 1000) for b in range(8, 48) for lr in range(1, 26)]
    start = time.perf_counter()
    found = _find(cells)
    assert ("batch_size", "learning_rate") not in found.entangled
    assert found.extra_cells == ()
    assert time.perf_counter() - start < 60  # a bound against a hang, not a measurement


def test_the_proposal_is_a_grid_file_that_runs() -> None:
    cells = paper_cells(width=8, train_limit=5000)
    found = find_confounds(cells, _factors(cells), TRAIN)
    title = 'a "title" \\ with\nlines and <b>'
    asked = StudySpec(
        "paper",
        title,
        tuple(cells),
        (0, 3),
        tuple(_factors(cells)),
        equivalence_margin=0.01,
        primary_metric="gap",
        claims="worksheet",
    )
    text = write_grid(found, asked)
    assert tomllib.loads(text)["title"] == 'a "title" \\ with\nlines and <b>'
    spec = build_spec(parse_grid(text, "proposal"))
    assert [cell.config for cell in spec.cells] == [*(cell.config for cell in cells), *found.extra_cells]
    assert [cell.cell_id for cell in spec.cells[:2]] == [cell.cell_id for cell in cells]
    assert [cell.published for cell in spec.cells[:2]] == [cell.published for cell in cells]
    assert spec.cells[0].label == "Experiment 1"
    assert spec.seeds == (0, 3)
    assert (spec.equivalence_margin, spec.primary_metric, spec.claims) == (0.01, "gap", "worksheet")


def test_an_optimizer_is_compared_with_its_own_settings() -> None:
    own = [build_cell("", learning_rate=0.1), build_cell("", optimizer="adamw", learning_rate=1e-3, weight_decay=0.1)]
    assert not _find(own)
    also_width = [own[0], build_cell("", optimizer="adamw", learning_rate=1e-3, width=8)]
    assert {"optimizer", "width"} in [set(group) for group in _find(also_width).together]


def test_of_adamw_the_rate_goes_with_the_root_of_the_batch_size() -> None:
    cells = [build_cell("", optimizer="adamw", batch_size=b, learning_rate=r) for b, r in ((64, 1e-3), (256, 2e-3))]
    found = _find(cells)
    assert "ratio" not in [quantity.name for quantity in found.quantities], "it is the same in both"
    cells = [build_cell("", optimizer="adamw", batch_size=b, learning_rate=1e-3) for b in (64, 256)]
    assert "earning rate / square root of batch size" in " ".join(_find(cells).sentences)


def test_no_cell_is_proposed_that_trains_as_another_one() -> None:
    cells = [build_cell("", batch_size=64), build_cell("", batch_size=128, schedule="step", step_factor=0.5)]
    found = _find(cells)
    assert found.extra_cells
    assert all(TrialConfig.from_dict(config).without_effect == {} for config in found.extra_cells)


def test_the_proposal_for_another_network_is_a_grid_with_its_fields() -> None:
    grid = """
    name = "vit"
    seeds = [0]
    [base]
    model = "vit"
    width = 4
    model_fields.depth = 2
    [[cells]]
    batch_size = 32
    [[cells]]
    batch_size = 64
    learning_rate = 0.3
    """
    asked = build_spec(parse_grid(grid, "asked"))
    found = find_confounds(asked.cells, asked.factors, TRAIN)
    assert found.extra_cells
    text = write_grid(found, asked)
    assert tomllib.loads(text)["base"]["model_fields"]["depth"] == 2
    spec = build_spec(parse_grid(text, "proposal"))
    assert [cell.config for cell in spec.cells] == [*(cell.config for cell in asked.cells), *found.extra_cells]


def test_fields_that_only_some_networks_have_belong_to_the_network() -> None:
    grid = """
    name = "several"
    seeds = [0]
    [[cells]]
    model = "resnet50"
    [[cells]]
    model = "vit"
    model_fields.depth = 24
    [[cells]]
    model = "mlp"
    model_fields.depth = 2
    """
    spec = build_spec(parse_grid(grid, "several"))
    assert "model_fields.depth" in spec.factors
    assert not find_confounds(spec.cells, spec.factors, TRAIN)
