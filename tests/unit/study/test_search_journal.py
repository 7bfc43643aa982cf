"""The journal of a search: the same suggestions whatever happens to the driver, and an honest end for every trial."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis import load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.search.history import load_search
from analysis.search.objectives import Direction
from analysis.search.winners import list_contenders
from study.driver.search_phase import add_winners
from study.folder.ledger import consolidate
from study.folder.study_record import build_study
from study.plan.resources import Machine, TrialResources
from study.search.journal import SearchJournal
from study.spec.pruners.asha import AshaJudge, expect_epochs, list_rungs
from study.spec.search_spec import FIRST_SEARCH_SEED
from study.spec.study_spec import StudySpec
from tests.support.images import make_image_data
from tests.support.journals import DATA, Killed, accuracy, open_folder, run_journal, small_spec, state_of, train_epochs
from tests.support.studies import write_model
from trainable.records.trial_state import write_state


def read_journal(folder: StudyFolder, name: str = "small") -> optuna.Study:
    """The journal as any other program opens it."""
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(folder.search_journal))))


def search(path: Path, spec: StudySpec) -> list[optuna.trial.FrozenTrial]:
    folder = open_folder(path)
    journal = SearchJournal(folder, spec, DATA)
    run_journal(journal, folder)
    journal.close()
    return read_journal(folder, spec.name).trials


def outcomes(trials: list[optuna.trial.FrozenTrial]) -> list[object]:
    return [(t.number, t.params, t.state.name, t.values, t.intermediate_values) for t in trials]


def test_the_search_starts_from_what_is_known(tmp_path: Path) -> None:
    trials = search(tmp_path, small_spec())
    assert trials[0].params == {"batch_size": 64, "learning_rate": 0.1, "momentum": 0.9}
    assert trials[1].params == {"batch_size": 128, "learning_rate": 0.2, "momentum": 0.9}
    assert [trial.user_attrs["cell"] for trial in trials[:2]] == ["known", "another"]
    assert len(trials) == 20
    assert len({tuple(trial.params.values()) for trial in trials}) == 20


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "nsga2"])
def test_the_same_seed_gives_the_same_search_also_when_its_driver_is_killed_again_and_again(
    tmp_path: Path, sampler: str
) -> None:
    spec = small_spec(f'sampler = "{sampler}"', trials=14)
    assert spec.search is not None
    other = replace(spec, search=replace(spec.search, seed=6))
    whole = search(tmp_path / "whole", spec)
    folder = open_folder(tmp_path / "killed")
    kills = [(3, 1), (3, 2), (7, 1), (12, 1), (13, 1)]
    for number, epoch in [*kills, (99, 0)]:
        journal = SearchJournal(folder, spec, DATA)
        assert [t.state.name for t in read_journal(folder).trials].count("RUNNING") == 0
        try:
            run_journal(journal, folder, kill=lambda s, e, at=(number, epoch): (s.number, e) == at)  # type: ignore[misc]
        except Killed:
            continue
        journal.close()
    assert outcomes(read_journal(folder).trials) == outcomes(whole)
    assert outcomes(search(tmp_path / "other", other)) != outcomes(whole)


def test_a_trial_that_was_cut_short_goes_on_as_the_same_trial(tmp_path: Path) -> None:
    folder, spec = open_folder(tmp_path), small_spec('pruner = "none"')
    with pytest.raises(Killed):
        run_journal(SearchJournal(folder, spec, DATA), folder, kill=lambda s, e: (s.number, e) == (2, 4))
    assert read_journal(folder).trials[2].state.name == "RUNNING"  # nobody was there to say otherwise
    journal = SearchJournal(folder, spec, DATA)
    assert read_journal(folder).trials[2].state.name == "WAITING"
    suggestion = journal.suggest()
    assert suggestion is not None
    assert (suggestion.number, suggestion.state.epochs_completed) == (2, 4)
    trial = read_journal(folder).trials[2]
    assert trial.state.name == "RUNNING"
    assert trial.intermediate_values == {e: pytest.approx(accuracy(suggestion.state.config, e)) for e in (1, 2, 3, 4)}
    journal.close()
    assert read_journal(folder).trials[2].state.name == "WAITING"


def test_a_killed_driver_that_had_asked_but_not_written_the_trial(tmp_path: Path) -> None:
    folder, spec = open_folder(tmp_path / "cut"), small_spec()
    journal = SearchJournal(folder, spec, DATA)
    journal._study.ask()  # RUNNING, without parameters and without a trial of ours
    again = SearchJournal(folder, spec, DATA)
    run_journal(again, folder)
    again.close()
    assert outcomes(read_journal(folder).trials) == outcomes(search(tmp_path / "whole", spec))


def test_a_finished_search_is_extended_by_more_trials(tmp_path: Path) -> None:
    first = search(tmp_path / "a", small_spec(trials=12))
    more = search(tmp_path / "a", small_spec(trials=20))
    assert outcomes(more[:12]) == outcomes(first)
    assert outcomes(more) == outcomes(search(tmp_path / "b", small_spec(trials=20)))


def test_how_trials_end_in_the_folder_is_how_they_end_in_the_journal(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    journal = SearchJournal(folder, small_spec('pruner = "none"'), DATA)
    endings = (
        ("completed", 9, None), ("diverged", 3, "loss not finite in epoch 3"), ("pruned", 2, "pruned after epoch 2"),
        ("failed", 1, "OSError: disk full"), ("pending", 5, "interrupted"),
    )  # fmt: skip
    for status, last, reason in endings:
        suggestion = journal.suggest()
        assert suggestion is not None
        assert suggestion.state.role == "search"
        train_epochs(folder, suggestion.state, last, status, reason)
        journal.settle(suggestion.number)
        journal.settle(suggestion.number)  # again says nothing new
    trials = read_journal(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "WAITING"]
    assert [t.user_attrs.get("reason") for t in trials[:4]] == [reason for _, _, reason in endings[:4]]
    assert [len(t.intermediate_values) for t in trials[:4]] == [9, 3, 2, 1]
    assert trials[0].value == pytest.approx(trials[0].intermediate_values[9])
    assert journal.unfinished == 1
    assert not journal.over


def test_a_trial_that_went_on_is_not_judged_again_by_those_that_came_later(tmp_path: Path) -> None:
    """Two at a time: the first one passes the first rung while it is alone there, a better one comes, the driver stops."""
    folder, spec = open_folder(tmp_path), small_spec()
    journal = SearchJournal(folder, spec, DATA)
    first, second = journal.suggest(), journal.suggest()
    assert first is not None
    assert second is not None
    rung = 1
    for suggestion, value in ((first, 0.1), (second, 0.9)):
        assert journal.observe(suggestion.number, rung, {"val_accuracy": value}) is None
    third = journal.suggest()
    assert third is not None
    assert journal.observe(third.number, rung, {"val_accuracy": 0.05}) is not None, "the rung is one that prunes"
    journal.observe(first.number, 2, {"val_accuracy": 0.12})
    train_epochs(folder, first.state, 2, "pending", "interrupted")
    journal.close()
    resumed = SearchJournal(folder, spec, DATA).suggest()
    assert resumed is not None
    assert (resumed.number, resumed.state.epochs_completed) == (first.number, 2)


def test_a_pruning_that_the_driver_did_not_live_to_ask_for_is_made_up_for(tmp_path: Path) -> None:
    spec = small_spec()
    whole = search(tmp_path / "whole", spec)
    pruned = next(t for t in whole if t.state.name == "PRUNED" and t.number > 5)
    last = max(pruned.intermediate_values)
    folder = open_folder(tmp_path / "killed")
    with pytest.raises(Killed):
        run_journal(SearchJournal(folder, spec, DATA), folder, kill=lambda s, e: (s.number, e) == (pruned.number, last))
    journal = SearchJournal(folder, spec, DATA)
    suggestion = journal.suggest()
    assert suggestion is not None
    assert suggestion.number == pruned.number + 1
    told = read_journal(folder).trials[pruned.number]
    assert (told.state.name, told.intermediate_values) == ("PRUNED", pruned.intermediate_values)
    state = journal.states()[pruned.number]
    assert state.status == "pruned"
    assert state.reason == told.user_attrs["reason"]


def test_a_journal_that_is_lost_is_made_again_from_what_was_trained(tmp_path: Path) -> None:
    spec = small_spec()
    whole = search(tmp_path, spec)
    (tmp_path / "search.journal").unlink()
    folder = StudyFolder(tmp_path)
    journal = SearchJournal(folder, spec, DATA)
    assert journal.suggest() is None
    assert outcomes(read_journal(folder).trials) == outcomes(whole)


def test_two_objectives_end_in_a_pareto_front(tmp_path: Path) -> None:
    spec = small_spec('objective = ["val_accuracy", "train_time_s"]\ntop_k = 5', "epochs = { low = 2, high = 12 }")
    assert spec.search is not None
    assert (spec.search.sampler, spec.search.pruner) == ("nsga2", "none")
    trials = search(tmp_path, spec)
    assert all(trial.state.name == "COMPLETE" for trial in trials)
    for trial in trials:
        assert trial.values[1] == 2.0 * trial.params["epochs"]
    winners = SearchJournal(StudyFolder(tmp_path), spec, DATA).winners()
    front = [
        t.number
        for t in trials
        if not any(o.values[0] >= t.values[0] and o.values[1] <= t.values[1] and o.values != t.values for o in trials)
    ]
    assert {number for number, _ in winners} <= set(front)
    assert len(winners) == min(5, len(front))


def test_training_flops_are_images_times_those_of_the_model(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    write_model(folder, [8, 64])
    spec = small_spec('objective = ["val_accuracy", "train_flops"]', "width = { choices = [8, 64] }", trials=3)
    model = folder.read_records("model").to_pandas()
    per_image = model.groupby("width")["flops_two_per_mac_training"].sum()
    assert per_image[64] > 30 * per_image[8]
    for trial in search(tmp_path, spec):
        images = 9 * 28 * trial.params["batch_size"]  # epochs x steps x batch, as tests.searches writes them
        assert trial.values[1] == images * per_image[trial.params["width"]]


def test_winners_are_the_best_that_completed_and_then_those_pruned_last(tmp_path: Path) -> None:
    spec = small_spec("top_k = 20")
    assert spec.search is not None
    spec = replace(spec, search=replace(spec.search, seed=6))  # a search of which three trials complete
    trials = search(tmp_path, spec)
    completed = sorted((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: -t.values[0])
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    late = sorted((t for t in pruned if max(t.intermediate_values) == 3), key=lambda t: -t.values[0])
    early = sorted((t for t in pruned if max(t.intermediate_values) == 1), key=lambda t: -t.values[0])
    assert min(len(completed), len(late), len(early)) > 1
    journal = SearchJournal(StudyFolder(tmp_path), spec, DATA)
    assert [number for number, _ in journal.winners()] == [t.number for t in (*completed, *late, *early)]
    for number, config in journal.winners():
        assert (config.test_limit, config.validation_size) == (0, 100)
        assert config.seed == FIRST_SEARCH_SEED + 6 * 10_000 + number
    info = build_study(add_winners(spec, journal), make_image_data(), Machine(1, 0), TrialResources(1, 0.0, 1))
    folder = StudyFolder(tmp_path)
    folder.write_study(info)
    consolidate(folder)
    contenders = list_contenders(load_search(load_study(tmp_path)))
    assert [c.number for c in contenders if c.rank] == [number for number, _ in journal.winners()], (
        "as the analysis finds them"
    )
    assert all(c.cell is not None for c in contenders)
    assert [c.number for c in contenders if math.isfinite(c.searched)] == [t.number for t in completed]


def test_budgets_count_what_earlier_drivers_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(tmp_path)
    spec = small_spec("wall_time_h = 1.0\ngpu_hours = 0.01", trials=1000)
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    journal = SearchJournal(folder, spec, DATA)
    now[0] += 3000
    journal.close()
    journal = SearchJournal(folder, spec, DATA)
    assert journal.spent() is None
    now[0] += 601
    assert journal.spent() == "1 h"
    other = SearchJournal(open_folder(tmp_path / "gpu"), spec, DATA)
    for _ in range(2):  # 18 s each
        suggestion = other.suggest()
        assert suggestion is not None
        train_epochs(StudyFolder(tmp_path / "gpu"), replace(suggestion.state, gpu_share=1.0), 9, "completed")
        other.settle(suggestion.number)
    assert other.spent() == "0.01 GPU hours"


def test_another_search_in_the_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    search(tmp_path, small_spec(trials=3))
    folder = StudyFolder(tmp_path)
    refused = {
        "holds the search of another study, 'small', not of 'mine'": small_spec(name="mine"),
        "begun with another sampler": small_spec('sampler = "random"'),
        "begun with another epochs": small_spec(overrides={"epochs": 7}, name="small"),
        "begun with another space": small_spec("", "weight_decay = { low = 0.0, high = 0.1 }"),
    }
    for message, spec in refused.items():
        with pytest.raises(StudyFolderError, match=message) as caught:
            SearchJournal(folder, spec, DATA)
        assert "\n" not in str(caught.value)
    with pytest.raises(StudyFolderError, match="begun with another data"):
        SearchJournal(folder, small_spec(), "e" * 16)
    SearchJournal(folder, small_spec(trials=30), DATA)  # more trials are the same search


def test_a_trial_of_another_search_in_the_journal_is_refused(tmp_path: Path) -> None:
    search(tmp_path, small_spec(trials=3))
    folder = StudyFolder(tmp_path)
    study = read_journal(folder)
    study.enqueue_trial(
        {"batch_size": 32, "learning_rate": 0.1, "momentum": 0.0}, user_attrs={"trial_id": "../../other"}
    )
    with pytest.raises(StudyFolderError, match="its trial 3 is none of this search") as caught:
        SearchJournal(folder, small_spec(trials=3), DATA)
    assert "\n" not in str(caught.value)


def test_damaged_journals(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    folder.search_journal.write_bytes(b"not a journal\nat all\n")
    with pytest.raises(StudyFolderError, match="not a journal of Optuna") as caught:
        SearchJournal(folder, small_spec(), DATA)
    assert "\n" not in str(caught.value)
    folder.search_journal.unlink()
    before = search(tmp_path, small_spec(trials=5))
    with folder.search_journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id"')  # the driver died while it wrote
    more = search(tmp_path, small_spec(trials=6))
    assert outcomes(more[:5]) == outcomes(before)
    assert more[5].state.name in ("COMPLETE", "PRUNED")


def test_asha_lets_the_best_third_pass() -> None:
    assert list_rungs(9) == [1, 3]
    assert list_rungs(25) == [2, 6]
    assert list_rungs(5) == list_rungs(3) == [1]
    assert list_rungs(2) == list_rungs(1) == []
    assert list_rungs(25, warmup_epochs=3) == [4], "the first epoch after the longest warm-up, not epoch 2 within it"
    assert list_rungs(100, warmup_epochs=3) == list_rungs(100) == [11, 33]
    assert list_rungs(4, warmup_epochs=3) == []
    assert expect_epochs(4, warmup_epochs=3) == 4
    assert expect_epochs(9) == pytest.approx(1 + 2 / 3 + 6 / 9)
    pruned = judge("maximize", (0.5, 0.4, 0.6, 0.3, 0.55, 0.7, 0.58))
    # kept: those among the best max(1, n // 3) of the n that reached the rung so far
    assert pruned == [False, True, False, True, True, False, True]
    assert judge("maximize", (0.5, 0.1), epoch=2) == [False, False], "no rung"
    assert judge("minimize", (0.5, 0.6, 0.4)) == [False, True, False]


def judge(direction: Direction, values: tuple[float, ...], epoch: int = 1) -> list[bool]:
    """Which of trials with these values after an epoch are pruned as they come."""
    study, pruner, pruned = optuna.create_study(direction=direction), AshaJudge(9), []
    for value in values:
        trial = study.ask()
        trial.report(value, epoch)
        pruned.append(pruner.prune(study, study.trials[trial.number]))
    return pruned


def test_a_state_that_lost_its_role_gets_it_back(tmp_path: Path) -> None:
    folder = open_folder(tmp_path)
    journal = SearchJournal(folder, small_spec(), DATA)
    suggestion = journal.suggest()
    assert suggestion is not None
    train_epochs(folder, suggestion.state, 2, "pending")
    write_state(folder.trial(suggestion.state.trial_id), replace(state_of(folder, suggestion), role="grid"))
    again = SearchJournal(folder, small_spec(), DATA).suggest()
    assert again is not None
    assert (again.state.role, again.state.epochs_completed) == ("search", 2)
