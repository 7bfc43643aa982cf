"""The objectives, the sampler and the pruner of docs/adding-your-own.md: one file each, and everything else follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from analysis import load_study
from analysis.figures.search.history import build_search_history
from analysis.search.history import load_search
from study.driver.search_phase import describe_end
from study.folder.ledger import consolidate
from study.folder.study_record import build_study
from study.plan.description import describe_search
from study.plan.resources import Machine, TrialResources
from study.search.journal import SearchJournal
from study.spec.errors import SpecError
from study.spec.study_spec import StudySpec
from tests.support.images import make_image_data
from tests.support.journals import DATA, Killed, accuracy, open_folder, run_journal, small_spec
from tests.support.page_examples import added, read_examples

PEAK_MEMORY, PENALISED = "analysis/search/objectives/peak_memory.py", "analysis/search/objectives/penalised_accuracy.py"
SAMPLER, PRUNER = "study/spec/samplers/qmc.py", "study/spec/pruners/quarter.py"
EPOCHS = {"train_accuracy": 0.95, "peak_memory_bytes": 7 << 20}


@pytest.fixture(autouse=True)
def parts(tmp_path: Path) -> Iterator[None]:
    """The examples of the page, each in a folder of its own."""
    with added(tmp_path / "mine", PEAK_MEMORY, PENALISED, SAMPLER, PRUNER):
        yield


def run(path: Path, spec: StudySpec, kills: tuple[tuple[int, int], ...] = ()) -> list[optuna.trial.FrozenTrial]:
    """The trials of a search whose driver is killed after these (trial, epoch)."""
    folder = open_folder(path)
    for kill in (*kills, (-1, 0)):
        journal = SearchJournal(folder, spec, DATA)
        try:
            run_journal(journal, folder, kill=lambda s, e, at=kill: (s.number, e) == at, **EPOCHS)  # type: ignore[misc]
        except Killed:
            continue
        journal.close()
    return journal.trials


def outcomes(trials: list[optuna.trial.FrozenTrial]) -> list[object]:
    return [(t.number, t.params, t.state.name, t.values, t.intermediate_values) for t in trials]


def test_no_example_of_the_page_is_left_out() -> None:
    own = {name for name in read_examples() if name.startswith(("analysis/search/", "study/"))}
    assert own == {PEAK_MEMORY, PENALISED, SAMPLER, PRUNER}


def test_an_objective_of_an_epoch_prunes_and_is_reported(tmp_path: Path) -> None:
    spec = small_spec('objective = "penalised_accuracy"\npruner = "quarter"\ntop_k = 2')
    trials = run(tmp_path / "study", spec)
    config = SearchJournal(open_folder(tmp_path / "study"), spec, DATA).states()
    for trial in trials:
        for epoch, value in trial.intermediate_values.items():
            found = accuracy(config[trial.number].config, epoch)
            assert value == pytest.approx(found - 0.5 * max(0.0, 0.95 - found))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    pruned = [trial.user_attrs["reason"] for trial in trials if trial.state.name == "PRUNED"]
    assert all("by quarter: penalised_accuracy" in reason for reason in pruned)


def test_plan_tables_and_figures_follow(tmp_path: Path) -> None:
    spec = small_spec('objective = ["penalised_accuracy", "peak_memory"]\ntop_k = 2')
    resources = TrialResources(1, 0.0, 1)
    plan = "\n".join(describe_search(spec, resources))
    assert "maximize penalised_accuracy: validation accuracy less half the generalisation gap" in plan
    assert "minimize peak_memory: most bytes" in plan
    trials = run(tmp_path, spec)
    assert {trial.values[1] for trial in trials} == {7 << 20}
    folder = open_folder(tmp_path)
    assert "penalised accuracy" in describe_end(SearchJournal(folder, spec, DATA), width=160)
    folder.write_study(build_study(spec, make_image_data(), Machine(1, 0), resources))
    consolidate(folder)
    search = load_search(load_study(tmp_path))
    assert [search.title(0), search.title(1)] == ["penalised accuracy", "peak memory"]
    assert build_search_history(search).objectives[0].kind == "accuracy"
    assert len(search.curves) == sum(len(range(9)) for _ in trials), (
        "by epoch, from the records: Optuna keeps none of two"
    )
    first = search.curves[search.curves["number"] == 0]["value"]
    assert first.iloc[-1] == pytest.approx(trials[0].values[0])


def test_a_study_whose_objective_is_not_declared_here_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec('objective = "penalised_accuracy"\nsampler = "qmc"\npruner = "quarter"', trials=6)
    run(tmp_path, spec)
    folder = open_folder(tmp_path)
    folder.write_study(build_study(spec, make_image_data(), Machine(1, 0), TrialResources(1, 0.0, 1)))
    consolidate(folder)
    declared = load_search(load_study(tmp_path))
    import analysis.search.objectives as package

    monkeypatch.setattr(package, "__path__", package.__path__[:1])
    elsewhere = load_search(load_study(tmp_path))
    assert elsewhere.title() == "penalised accuracy"
    assert elsewhere.curves.equals(declared.curves)
    assert elsewhere.trials.equals(declared.trials)
    with pytest.raises(SpecError, match="objective 'penalised_accuracy' is not one of"):
        small_spec('objective = "penalised_accuracy"')


def test_a_sampler_suggests_the_same_with_the_same_seed_whatever_happens_to_its_driver(tmp_path: Path) -> None:
    spec = small_spec('sampler = "qmc"', trials=14)
    assert spec.search is not None
    whole = run(tmp_path / "whole", spec)
    assert outcomes(run(tmp_path / "killed", spec, kills=((3, 1), (3, 2), (12, 1)))) == outcomes(whole)
    other = run(tmp_path / "other", replace(spec, search=replace(spec.search, seed=6)))
    assert outcomes(other) != outcomes(whole)
    assert len({trial.params["learning_rate"] for trial in whole}) == 14


def test_what_an_added_part_cannot_do_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {
        "is not one of gp, nsga2, random, tpe, qmc": 'sampler = "cmaes"',
        "sampler 'qmc' has one objective; for two use gp, nsga2, random, tpe": 'objective = ["val_loss", "peak_memory"]\nsampler = "qmc"',
        "objective 'peak_memory' alone is best for": 'objective = "peak_memory"\npruner = "none"',
        "pruner 'quarter' needs an objective known after every epoch": 'objective = "peak_memory"\npruner = "quarter"',
        "pruner 'quarter' needs one objective": 'objective = ["val_loss", "peak_memory"]\npruner = "quarter"',
    }
    for message, table in refused.items():
        with pytest.raises(SpecError, match=message) as caught:
            small_spec(table)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr("study.spec.search_spec.find_spec", lambda package: None)
    with pytest.raises(SpecError, match="sampler 'qmc' needs the package scipy: install it"):
        small_spec('sampler = "qmc"')
