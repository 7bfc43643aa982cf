"""The figures of a search: their data by value, against plain computations over what Optuna kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.drawing.declaration import FigureKind, Subject
from analysis.drawing.search_marks import AxisScale
from analysis.drawing.style import NothingToDraw
from analysis.figures import draw_study_figures, plan_figures
from analysis.figures.search import (
    contour,
    curves,
    history,
    importances,
    parallel,
    pareto,
    slices,
)
from analysis.records.frames import load_study
from analysis.search import importances as importances_module
from analysis.search.history import Search, load_search
from analysis.search.importances import load_importances
from tests.support.search_studies import BATCH_SIZES, NUM_EPOCHS, PUBLISHED, write_search_study
from tests.unit.analysis.figure_studies import write_small_study
from tests.unit.analysis.figure_texts import find_drawn_texts, find_overlaps

NAMES = {
    "search_history", "search_importances", "search_contour", "search_slices", "search_parallel", "search_curves"
}  # fmt: skip


def plan_search(search: Search) -> list[FigureKind[Any]]:
    return [kind for kind, _ in plan_figures(search.study) if kind.section == "search"]


def make_search(path: Path, objectives: tuple[str, ...] = ("val_accuracy",), **options: Any) -> Search:
    return load_search(load_study(write_search_study(path / "made", objectives=objectives, **options)))


@pytest.fixture(scope="module", autouse=True)
def few_forests() -> Iterator[None]:
    """Importances from 3 resamples instead of 24, which take seconds: that they are right is in test_search_tables.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importances_module, "NUM_RESAMPLES", 3)
        yield


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return make_search(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return make_search(tmp_path_factory.mktemp("two"), ("val_accuracy", "train_flops"))


def test_history_is_the_running_best(search: Search) -> None:
    data = history.build_search_history(search)
    best, expected = -math.inf, []
    for trial in search.journal.trials:
        if trial.state == "COMPLETE":
            best = max(best, trial.values[0])
            expected.append((trial.number, best))
    assert list(data.best[0].itertuples(index=False, name=None)) == expected
    points = data.points[0].set_index("number")
    for trial in search.journal.trials:
        assert points.loc[trial.number, "value"] == (trial.values[0] if trial.values else trial.curve[max(trial.curve)])
        assert points.loc[trial.number, "enqueued"] == (trial.number < len(PUBLISHED))


def test_history_of_two_objectives_goes_its_own_way(two: Search) -> None:
    data = history.build_search_history(two)
    assert [objective.name for objective in data.objectives] == ["val_accuracy", "train_flops"]
    assert data.best[0]["value"].is_monotonic_increasing
    assert data.best[1]["value"].is_monotonic_decreasing
    assert data.best[1]["value"].iloc[-1] == min(t.values[1] for t in two.journal.trials if t.values)


def test_front_is_what_no_other_trial_beats(two: Search) -> None:
    trials = pareto.build_search_pareto(two).trials
    assert len(trials) == sum(trial.state == "COMPLETE" for trial in two.journal.trials)
    rows = trials.to_dict("records")
    for row in rows:
        beaten = any(
            o["first"] >= row["first"] and o["second"] <= row["second"]
            and (o["first"] > row["first"] or o["second"] < row["second"])
            for o in rows
        )  # fmt: skip
        assert row["on_front"] != beaten
    assert 1 <= trials["on_front"].sum() < len(trials)


def test_one_objective_has_no_front(search: Search) -> None:
    with pytest.raises(NothingToDraw, match="one objective"):
        pareto.build_search_pareto(search)


def test_contour_stands_on_the_completed_trials(search: Search) -> None:
    data = contour.build_search_contour(search)
    done = [trial for trial in search.journal.trials if trial.state == "COMPLETE"]
    places: dict[tuple[float, float], list[float]] = {}
    for trial in done:
        place = (float(str(trial.parameters["batch_size"])), float(str(trial.parameters["learning_rate"])))
        places.setdefault(place, []).append(trial.values[0])
    surface = data.surface
    assert len(surface) == len(places)
    for row in surface.to_dict("records"):
        assert row["value"] == pytest.approx(np.mean(places[row["batch_size"], row["learning_rate"]]))
    published = data.published[["batch_size", "learning_rate"]].to_numpy().tolist()
    assert published == [[p["batch_size"], p["learning_rate"]] for p in PUBLISHED]
    assert data.trials["value"].notna().sum() == len(done) < len(data.trials) == len(search.journal.trials)


def test_slices_have_every_trial_at_its_place(search: Search) -> None:
    data = slices.build_search_slices(search)
    scales = {scale.title: scale for scale in data.scales}
    assert [scales[name].kind for name in ("batch size", "learning rate", "momentum")] == ["log", "log", "linear"]
    trials = {trial.number: trial for trial in search.journal.trials}
    for place, number in enumerate(data.points["number"]):
        assert scales["learning rate"].places[place] == trials[number].parameters["learning_rate"]
        assert scales["batch size"].places[place] == trials[number].parameters["batch_size"]
    assert {text for _, text in scales["batch size"].ticks} <= {str(size) for size in BATCH_SIZES}


def test_parallel_lines_are_the_completed_trials_best_last(search: Search) -> None:
    data = parallel.build_search_parallel(search)
    done = sorted((t for t in search.journal.trials if t.state == "COMPLETE"), key=lambda t: t.values[0])
    points, scales = data.trials.points, data.trials.scales
    assert list(points["value"]) == [trial.values[0] for trial in done]
    assert set(points["number"]) == {trial.number for trial in done}
    assert scales[1].places.tolist() == [
        next(t for t in done if t.number == number).parameters["learning_rate"] for number in points["number"]
    ]


def test_ticks_of_parallel_axes_are_whole_for_whole_numbers_and_never_alike() -> None:
    whole = AxisScale("warmup epochs", "linear", np.array([0.0, 1.0, 3.0, 0.0]))
    assert parallel._ticks(whole) == [
        (0.0, "0"),
        (pytest.approx(1 / 3), "1"),
        (pytest.approx(2 / 3), "2"),
        (1.0, "3"),
    ]
    narrow = AxisScale("momentum", "linear", np.array([0.885, 0.9]))
    texts = [text for _, text in parallel._ticks(narrow)]
    assert len(set(texts)) == len(texts) == 5


def test_curves_are_what_was_reported(search: Search) -> None:
    data = curves.build_search_curves(search)
    reported = [(t.number, epoch, value) for t in search.journal.trials for epoch, value in sorted(t.curve.items())]
    assert list(data.curves[["number", "epoch", "value"]].itertuples(index=False, name=None)) == reported
    best = max((t for t in search.journal.trials if t.values), key=lambda t: t.values[0])
    assert data.best == best.number
    assert data.curves.groupby("number")["epoch"].max()[best.number] == NUM_EPOCHS


def test_curves_come_from_the_records_where_the_journal_has_none(two: Search) -> None:
    """With two objectives Optuna keeps no values by epoch."""
    assert not any(trial.curve for trial in two.journal.trials)
    drawn = curves.build_search_curves(two).curves
    numbers = {trial.trial_id: trial.number for trial in two.journal.trials}
    epochs = two.study.search_epochs
    expected = sorted(zip(epochs["trial_id"].map(numbers), epochs["epoch"], epochs["val_accuracy"], strict=True))
    assert list(drawn[["number", "epoch", "value"]].itertuples(index=False, name=None)) == expected


def test_importances_are_those_of_the_table(search: Search) -> None:
    panels = importances.build_search_importances(search).panels
    assert [title.split(",")[0] for title, _ in panels] == [
        "Hyperparameters: final value", "Training dynamics: final value",
        "Hyperparameters: value after epoch 1", "Training dynamics: value after epoch 1",
    ]  # fmt: skip
    assert sum(len(rows) for _, rows in panels) == len(load_importances(search))
    for _, rows in panels:
        assert rows["importance"].is_monotonic_decreasing


def test_every_figure_is_drawn_with_texts_that_can_be_read(search: Search, two: Search) -> None:
    for one, names in ((search, NAMES), (two, NAMES | {"search_pareto"})):
        plans = plan_search(one)
        assert {plan.name for plan in plans} == names
        for plan in plans:
            if one is two and plan.name == "search_importances":
                continue  # seconds of work, and laid out as the other one
            figure = plan.draw_on_paper(plan.build(one.study, Subject()), Subject())
            texts = find_drawn_texts(figure)
            assert not find_overlaps(texts), plan.name
            width, height = figure.get_size_inches() * figure.dpi
            for text in texts:
                box = text.get_window_extent()
                assert box.x0 >= -1, (plan.name, text.get_text())
                assert box.y0 >= -1, (plan.name, text.get_text())
                assert box.x1 <= width + 1, (plan.name, text.get_text())
                assert box.y1 <= height + 1, (plan.name, text.get_text())


def test_a_search_that_has_hardly_begun_draws_what_it_can(tmp_path: Path) -> None:
    search = make_search(tmp_path, num_trials=1, confirmed=False)
    left_out = {}
    for plan in plan_search(search):
        try:
            plan.draw_on_paper(plan.build(search.study, Subject()), Subject())
        except NothingToDraw as reason:
            left_out[plan.name] = str(reason)
    assert set(left_out) == {"search_importances"}


def test_a_study_without_search_has_no_figure_of_one(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, layers=False, seeds=(0,), epochs=1)
    assert not [figure for figure in draw_study_figures(study) if figure.section == "search"]
