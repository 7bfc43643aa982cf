"""Verdicts on claims: each of them reached on a study of known truth, and every reason for which none can be given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.claims.claims_file import load_claims
from analysis.claims.verdicts import CheckedClaim, check_claims, count_verdicts
from analysis.records.frames import Study, load_study
from analysis.records.study_folder import StudyFolder
from analysis.tables.claims import build_claims
from tests.support.studies import Truth, build_cell, paper_cells, write_synthetic_study
from trainable.records.tables import build_table

ORIGINAL = {"source": "original batch files in /somewhere"}
TRUTHS = (
    Truth(0.9310, gap=0.0415, epoch1_test_accuracy=0.2859, images_per_s=20_000),
    Truth(0.9239, gap=0.0538, epoch1_test_accuracy=0.3543, images_per_s=24_000),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The published grid on the original data, coming out just as published."""
    folder = tmp_path_factory.mktemp("studies") / "as-published"
    cells = paper_cells(instrument_every_steps=390)
    write_synthetic_study(folder, cells=cells, seeds=range(5), truths=TRUTHS, data=ORIGINAL)
    return load_study(folder)


def _check(study: Study, path: Path, query: str, expect: str, extra: str = "") -> CheckedClaim:
    """One claim, written to a claims file, checked in a study."""
    claim = (
        f'[[claim]]\nid = "x"\nsection = "1"\nstatement = "s"\nquery = {{ {query} }}\nexpect = {{ {expect} }}\n{extra}'
    )
    file = path / "claims.toml"
    file.write_text(f'title = "t"\n[needs.wide]\nwidth = 64\n{claim}\n')
    return check_claims(load_study(study.folder, file))[0]


EXPERIMENT_1 = "cell = { batch_size = 64, learning_rate = 0.15 }"
EXPERIMENT_2 = "cell = { batch_size = 128, learning_rate = 0.2 }"
ACCURACY = f'kind = "metric", metric = "final_test_accuracy", {EXPERIMENT_1}'
DIFFERENCE = (
    f'kind = "difference", metric = "final_test_accuracy", {EXPERIMENT_1}, {EXPERIMENT_2.replace("cell", "other")}'
)
LAYER = f'column = "gradient_mean_abs", {EXPERIMENT_1}'


@pytest.mark.parametrize(
    ("query", "expect", "verdict"),
    [
        (ACCURACY, "value = 0.93, tolerance = 0.005", "reproduced"),
        (ACCURACY, "value = 0.95, tolerance = 0.005", "contradicted"),
        (ACCURACY, "value = 0.9265, tolerance = 0.004", "not reproduced"),
        (ACCURACY, "value = 0.9310, tolerance = 0.0001", "undetermined"),
        (ACCURACY, "range = [0.9, 0.95]", "reproduced"),
        (ACCURACY, "at_least = 0.9", "reproduced"),
        (ACCURACY, "at_least = 0.95", "contradicted"),
        (ACCURACY, "at_least = 0.931", "undetermined"),
        (DIFFERENCE, 'direction = "positive"', "reproduced"),
        (DIFFERENCE, 'direction = "negative"', "contradicted"),
        (DIFFERENCE, "value = 0.0071, tolerance = 0.005", "reproduced"),
        (f'kind = "epoch", column = "test_accuracy", epoch = 1, {EXPERIMENT_1}', "value = 0.28, tolerance = 0.01", "reproduced"),
        (f'kind = "steps", column = "gradient_mean_abs", epochs = [20, 25], {EXPERIMENT_1}', "range = [0.003, 0.006]", "reproduced"),
        (f'kind = "steps", column = "gradient_mean_abs", epochs = [1, 5], {EXPERIMENT_1}', "range = [0.003, 0.006]", "contradicted"),
        (f'kind = "layers", statistic = "median", groups = ["layer4"], epochs = [1, 5], {LAYER}', "range = [1e-4, 1e-3]", "reproduced"),
        (f'kind = "layers", statistic = "median", groups = ["layer4"], epochs = [1, 5], {LAYER}', "range = [1e-2, 1e-1]", "contradicted"),
        ('kind = "layers", column = "gradient_max_abs", statistic = "max"', "at_most = 10.0", "reproduced"),
        ('kind = "layers", column = "gradient_max_abs", statistic = "max"', "at_most = 1e-3", "contradicted"),
        ('kind = "layers", column = "gradient_mean_abs", statistic = "min"', "at_least = 1e-3", "contradicted"),
        (f'kind = "layers_change", statistic = "mean", from = [1, 5], to = [20, 25], {LAYER}', 'direction = "negative"', "reproduced"),
        (f'kind = "layers_change", statistic = "mean", from = [1, 5], to = [20, 25], {LAYER}', 'direction = "positive"', "contradicted"),
        (f'kind = "layers_change", statistic = "mean", from = [1, 5], to = [20, 25], {LAYER}', "range = [0.1, 0.3]", "reproduced"),
        (f'kind = "layers_order", statistic = "mean", groups = ["fc", "stem", "layer1", "layer2"], epochs = [1, 25], {LAYER}', "order = true", "reproduced"),
        (f'kind = "layers_order", statistic = "mean", groups = ["layer2", "layer1", "stem"], epochs = [1, 25], {LAYER}', "order = true", "contradicted"),
        (f'kind = "layers_order", statistic = "mean", groups = ["stem", "fc", "layer1"], epochs = [1, 25], {LAYER}', "order = true", "not reproduced"),
        ('kind = "model", quantity = "num_parameters", width = 64', "value = 11173962, tolerance = 0", "reproduced"),
        ('kind = "model", quantity = "macs", width = 64, layer = "fc"', "value = 5121, tolerance = 0", "contradicted"),
    ],
)  # fmt: skip
def test_every_verdict(study: Study, tmp_path: Path, query: str, expect: str, verdict: str) -> None:
    assert _check(study, tmp_path, query, expect).verdict == verdict


PUBLISHED_CELLS = "cells = [{ batch_size = 64, learning_rate = 0.15 }, { batch_size = 128, learning_rate = 0.2 }]"
LARGEST = f'kind = "layers", column = "gradient_max_abs", statistic = "max", {PUBLISHED_CELLS}'


def _explode(folder: StudyFolder, batch_size: int, status: str = "completed") -> None:
    """One gradient of 11 in a trial of this batch size and status."""
    trials, rows = (folder.read_records(kind).to_pylist() for kind in ("trials", "layers"))
    chosen = [t["trial_id"] for t in trials if (t["config.batch_size"], t["status"]) == (batch_size, status)]
    next(row for row in rows if row["trial_id"] == chosen[0])["gradient_max_abs"] = 11.0
    folder.write_records("layers", build_table("layers", rows))


def test_extremes_are_those_of_the_published_cells_alone(tmp_path: Path) -> None:
    cells = [*paper_cells(epochs=3, instrument_every_steps=390)]
    cells.append(build_cell("another", epochs=3, instrument_every_steps=390, batch_size=256, learning_rate=0.2))
    folder = write_synthetic_study(tmp_path / "s", cells=cells, seeds=[0, 1], truths=TRUTHS)
    _explode(folder, 256)
    checked = _check(load_study(folder), tmp_path, LARGEST, "at_most = 10.0")
    assert (checked.verdict, checked.reason) == ("reproduced", "")
    everywhere = LARGEST.replace(f", {PUBLISHED_CELLS}", "")
    assert _check(load_study(folder), tmp_path, everywhere, "at_most = 10.0").verdict == "contradicted"
    for name in ("no-vanishing-gradients", "no-exploding-gradients", "weights-below-one"):
        claim = next(claim for claim in load_claims().claims if claim.id == name)
        assert [cell["batch_size"] for cell in claim.query["cells"]] == [64, 128]


def test_extremes_count_what_diverged_trials_measured(tmp_path: Path) -> None:
    cells = paper_cells(epochs=3, instrument_every_steps=390)
    outcomes = {(0, 1): "diverged"}
    folder = write_synthetic_study(tmp_path / "s", cells=cells, seeds=[0, 1], truths=TRUTHS, outcomes=outcomes)
    assert _check(load_study(folder), tmp_path, LARGEST, "at_most = 10.0").verdict == "reproduced"
    _explode(folder, 64, "diverged")
    checked = _check(load_study(folder), tmp_path, LARGEST, "at_most = 10.0")
    assert (checked.verdict, checked.value) == ("contradicted", 11.0)


def test_extremes_need_a_completed_trial_in_each_cell(tmp_path: Path) -> None:
    cells = paper_cells(epochs=3, instrument_every_steps=390)
    outcomes = {(1, 0): "diverged", (1, 1): "failed"}
    folder = write_synthetic_study(tmp_path / "s", cells=cells, seeds=[0, 1], truths=TRUTHS, outcomes=outcomes)
    checked = _check(load_study(folder), tmp_path, LARGEST, "at_most = 10.0")
    assert checked.verdict == "undetermined"
    assert checked.reason == "no completed trial with such measurements of Experiment 2"
    one = LARGEST.replace(PUBLISHED_CELLS, "cells = [{ batch_size = 64 }, { batch_size = 32 }]")
    assert _check(load_study(folder), tmp_path, one, "at_most = 10.0").reason == (
        "missing cells: the study has no batch_size 32"
    )


def test_staying_within_bounds_is_about_every_step(study: Study, tmp_path: Path) -> None:
    """The mean lies in the published range, single steps do not."""
    trials = {t["trial_id"] for t in study.folder.read_records("trials").to_pylist() if t["config.batch_size"] == 64}
    values = [
        row["gradient_mean_abs"] for row in study.folder.read_records("steps").to_pylist()
        if row["trial_id"] in trials and 20 <= row["epoch"] <= 25 and row["gradient_mean_abs"] is not None
    ]  # fmt: skip
    query = f'kind = "steps", column = "gradient_mean_abs", epochs = [20, 25], {EXPERIMENT_1}'
    lowest = _check(study, tmp_path, f'{query}, statistic = "min"', "at_least = 0.003")
    highest = _check(study, tmp_path, f'{query}, statistic = "max"', "at_most = 0.006")
    assert (lowest.value, highest.value) == (min(values), max(values))
    assert min(values) < 0.003
    assert max(values) < 0.006
    assert (lowest.verdict, highest.verdict) == ("contradicted", "reproduced")
    assert _check(study, tmp_path, query, "range = [0.003, 0.006]").verdict == "reproduced"
    stable = [claim for claim in load_claims().claims if claim.id.startswith("gradient-norm-stable")]
    assert [claim.query["statistic"] for claim in stable] == ["min", "max"]


def test_groups_that_the_seeds_do_not_tell_apart_have_no_order(tmp_path: Path) -> None:
    near = {**Truth().gradients, "layer1": 4e-3, "layer2": 4e-3, "layer3": 1e-3, "layer4": 5e-4}
    cells = paper_cells(epochs=2, instrument_every_steps=390)[:1]
    folder = write_synthetic_study(tmp_path / "s", cells=cells, seeds=range(3), truths=[Truth(gradients=near)])
    query = f'kind = "layers_order", statistic = "mean", epochs = [1, 2], {LAYER}, groups = '
    unclear = _check(load_study(folder), tmp_path, query + '["layer1", "layer2", "layer3"]', "order = true")
    assert (unclear.verdict, unclear.num_seeds) == ("undetermined", 3)
    assert "the seeds do not tell 1 of 3 apart" in unclear.reason
    for groups, verdict in (
        ('["layer1", "layer3", "layer4"]', "reproduced"),
        ('["layer1", "layer2", "layer4", "layer3"]', "not reproduced"),
        ('["layer4", "layer3", "layer2", "layer1"]', "contradicted"),
    ):
        assert _check(load_study(folder), tmp_path, query + groups, "order = true").verdict == verdict


def test_one_seed_has_no_order(tmp_path: Path) -> None:
    cells = paper_cells(epochs=2, instrument_every_steps=390)[:1]
    folder = write_synthetic_study(tmp_path / "s", cells=cells, seeds=[0])
    query = f'kind = "layers_order", statistic = "mean", epochs = [1, 2], {LAYER}, groups = ["layer1", "layer4"]'
    assert _check(load_study(folder), tmp_path, query, "order = true").verdict == "undetermined"
    assert next(claim for claim in load_claims().claims if claim.id == "update-rank").min_seeds == 3


def test_several_cells_that_fit_equally_are_named(tmp_path: Path) -> None:
    cells = [build_cell(f"{m}", momentum=m, epochs=2, instrument_every_steps=0) for m in (0.5, 0.9)]
    write_synthetic_study(tmp_path / "s", cells=cells, seeds=range(3))
    checked = _check(load_study(tmp_path / "s"), tmp_path, ACCURACY, "at_least = 0.9")
    assert checked.verdict == "undetermined"
    assert checked.reason == "several cells fit batch_size 64, learning_rate 0.15 equally well: 0.5, 0.9"


def test_with_a_warm_up_the_published_schedule_cannot_be_tested(tmp_path: Path) -> None:
    cells = paper_cells(warmup_epochs=2, instrument_every_steps=0)
    write_synthetic_study(tmp_path, cells=cells, seeds=range(3), truths=TRUTHS, data=ORIGINAL)
    checked = {claim.claim.id: claim for claim in check_claims(load_study(tmp_path))}
    for name in ("learning-rate-experiment-1-epoch-1", "test-accuracy-experiment-1"):
        assert checked[name].verdict == "undetermined"
        assert "warmup_epochs is 2 instead of 0" in checked[name].reason


def test_no_difference_larger_than_the_margin_is_not_reproduced(tmp_path: Path) -> None:
    truth = Truth(0.93, seed_sd=0.0005)
    write_synthetic_study(tmp_path / "s", cells=paper_cells(epochs=2), seeds=range(8), truths=[truth], layers=False)
    checked = _check(load_study(tmp_path / "s"), tmp_path, DIFFERENCE, 'direction = "positive"')
    assert (checked.verdict, checked.reason) == ("not reproduced", "no difference larger than 0.5 points")


def test_an_uncertain_difference_is_undetermined(tmp_path: Path) -> None:
    truth = Truth(0.93, seed_sd=0.02)
    write_synthetic_study(tmp_path / "s", cells=paper_cells(epochs=2), seeds=range(3), truths=[truth], layers=False)
    checked = _check(load_study(tmp_path / "s"), tmp_path, DIFFERENCE, 'direction = "positive"')
    assert checked.verdict == "undetermined"
    assert "more seeds" in checked.reason


def test_measured_values_are_those_of_the_records(study: Study, tmp_path: Path) -> None:
    """The numbers beside the verdicts, from the records by plain Python."""
    ids = [t["trial_id"] for t in study.folder.read_records("trials").to_pylist() if t["config.batch_size"] == 64]
    rows = [
        r for r in study.folder.read_records("layers").to_pylist() if r["trial_id"] in ids and r["group"] == "layer4"
    ]

    def of(trial: str, first: int, last: int) -> list[float]:
        return [r["gradient_mean_abs"] for r in rows if r["trial_id"] == trial and first <= r["epoch"] <= last]

    query = f'kind = "layers", statistic = "median", groups = ["layer4"], epochs = [1, 5], {LAYER}'
    medians = [float(np.median(of(trial, 1, 5))) for trial in ids]
    checked = _check(study, tmp_path, query, "range = [1e-4, 1e-3]")
    assert checked.value == pytest.approx(np.exp(np.mean(np.log(medians))))
    assert checked.low < checked.value < checked.high
    assert checked.num_seeds == 5
    query = f'kind = "layers_change", statistic = "mean", groups = ["layer4"], from = [1, 5], to = [20, 25], {LAYER}'
    ratios = [np.mean(of(trial, 20, 25)) / np.mean(of(trial, 1, 5)) for trial in ids]
    assert _check(study, tmp_path, query, "at_most = 1").value == pytest.approx(
        np.exp(np.mean(np.log(ratios))), rel=1e-5
    )
    extreme = _check(
        study, tmp_path, 'kind = "layers", column = "gradient_mean_abs", statistic = "min"', "at_least = 1e-6"
    )
    everything = study.folder.read_records("layers", ["gradient_mean_abs"])["gradient_mean_abs"].to_pylist()
    assert extreme.value == pytest.approx(min(everything))
    spread = f'kind = "layers", statistic = "log_spread", epochs = [25, 25], {LAYER}'
    assert _check(study, tmp_path, spread, "at_most = 1").value == pytest.approx(_log_spread(study, ids), rel=1e-4)


def _log_spread(study: Study, ids: list[str]) -> float:
    spreads = []
    for trial in ids:
        by_layer: dict[str, list[float]] = {}
        for row in study.folder.read_records("layers").to_pylist():
            if row["trial_id"] == trial and row["epoch"] == 25:
                by_layer.setdefault(row["layer"], []).append(row["gradient_mean_abs"])
        spreads.append(np.std(np.log10([np.mean(values) for values in by_layer.values()]), ddof=1))
    return float(np.exp(np.mean(np.log(spreads))))


def test_the_worksheet_on_a_study_that_comes_out_as_published(study: Study) -> None:
    checked = {claim.claim.id: claim for claim in check_claims(study)}
    for name in (
        "test-accuracy-experiment-1", "test-accuracy-experiment-2", "gap-experiment-1", "steps-per-epoch-experiment-1",
        "faster-start", "learning-rate-experiment-2-epoch-15", "parameters", "flops", "flops-layer2-0-conv2", "memory",
        "no-exploding-gradients", "no-vanishing-gradients", "gradients-decrease", "smaller-batch-ends-higher", "time-order",
    ):  # fmt: skip
        assert checked[name].verdict == "reproduced", (name, checked[name])
    assert checked["gradient-range-layer4"].verdict == "contradicted"
    assert checked["update-rank"].verdict in ("not reproduced", "contradicted")
    assert checked["weights-grow"].verdict == "contradicted"
    assert checked["smaller-batch-generalises-at-0-15"].verdict == "undetermined"
    assert "missing cells" in checked["smaller-batch-generalises-at-0-15"].reason
    assert "missing cells" in checked["augmentation-is-critical"].reason
    assert "other hardware" in checked["time-experiment-1"].reason
    assert checked["time-experiment-1"].value == pytest.approx(25 * 781 * 64 / 20_000)


FREE = ("learning-rate-", "parameter", "memory", "flops")


@pytest.mark.parametrize(
    ("cells", "arguments", "reason"),
    [
        ({"width": 8}, {}, "width is 8 instead of 64"),
        ({"train_limit": 5000}, {}, "a part of the images"),
        ({}, {"data": {"source": "Parquet shards in /x"}}, "other data copy: Parquet shards in /x"),
        ({"dataset": "synthetic"}, {}, "dataset is synthetic instead of cifar10"),
        ({"weight_decay": 0.0}, {}, "weight_decay is 0.0 instead of 0.0005"),
        ({"precision": "bf16"}, {}, "precision is bf16 instead of published"),
    ],
)
def test_studies_that_cannot_test_a_claim_say_why(
    tmp_path: Path, cells: Mapping[str, Any], arguments: Mapping[str, Any], reason: str
) -> None:
    made = paper_cells(**{"instrument_every_steps": 390, **cells})
    write_synthetic_study(tmp_path, cells=made, truths=TRUTHS, **{"data": ORIGINAL, **arguments})
    checked = check_claims(load_study(tmp_path))
    for claim in checked:
        if claim.claim.query.kind == "model" or claim.claim.id.startswith("learning-rate"):
            assert claim.verdict == (
                "undetermined" if claim.claim.query.kind == "model" and "width" in cells else "reproduced"
            )
        else:
            assert claim.verdict == "undetermined" or claim.claim.id in ("time-order", "steps-per-epoch-experiment-1", "steps-per-epoch-experiment-2")  # fmt: skip
    accuracy = checked[0]
    assert reason in accuracy.reason
    assert accuracy.value == pytest.approx(0.931, abs=0.01)


def test_what_was_measured_is_judged_as_if_the_conditions_were_met(study: Study, tmp_path: Path) -> None:
    cells = paper_cells(instrument_every_steps=390, precision="bf16")
    write_synthetic_study(tmp_path, cells=cells, seeds=range(5), truths=TRUTHS, data=ORIGINAL)
    other = load_study(tmp_path)
    met, unmet = ({c.claim.id: c for c in check_claims(one)} for one in (study, other))
    accuracy = unmet["test-accuracy-experiment-1"]
    assert (accuracy.verdict, accuracy.as_measured) == ("undetermined", "reproduced")
    assert {name: claim.as_measured for name, claim in unmet.items()} == {n: c.as_measured for n, c in met.items()}
    shown = build_claims(other).frame.set_index("id")["as_measured"]
    assert shown["test-accuracy-experiment-1"] == "reproduced"
    assert pd.isna(shown["parameters"]), "its verdict says it"


def test_too_few_seeds(tmp_path: Path) -> None:
    cells = paper_cells(instrument_every_steps=390)
    write_synthetic_study(
        tmp_path, cells=cells, seeds=[0, 1], truths=TRUTHS, data=ORIGINAL, outcomes={(0, 1): "failed"}
    )
    checked = {claim.claim.id: claim for claim in check_claims(load_study(tmp_path))}
    assert checked["test-accuracy-experiment-1"].reason == "too few seeds: 1 completed, the claim needs 3"
    assert checked["parameters"].verdict == "reproduced"
    gradient = checked["gradient-range-layer3"]  # one seed is enough for an order of magnitude
    assert (gradient.verdict, gradient.num_seeds, gradient.reason) == ("not reproduced", 1, "one seed: no interval")


def test_nothing_measured(tmp_path: Path) -> None:
    write_synthetic_study(tmp_path, cells=paper_cells(), seeds=range(3), data=ORIGINAL, layers=False)
    checked = {claim.claim.id: claim for claim in check_claims(load_study(tmp_path))}
    assert checked["update-rank"].reason == "not measured in this study"
    assert checked["no-vanishing-gradients"].verdict == "undetermined"


def test_of_several_cells_the_one_that_fits_what_the_claim_needs(tmp_path: Path) -> None:
    cells = [build_cell(f"{m}", momentum=m, instrument_every_steps=0) for m in (0.5, 0.9, 0.99)]
    truths = [Truth(0.5), Truth(0.931), Truth(0.6)]
    write_synthetic_study(tmp_path, cells=cells, truths=truths, seeds=range(3), data=ORIGINAL, claims="worksheet")
    checked = {claim.claim.id: claim for claim in check_claims(load_study(tmp_path))}
    assert checked["test-accuracy-experiment-1"].verdict == "reproduced"
    assert "missing cells" in checked["test-accuracy-experiment-2"].reason


def test_a_single_violation_refutes_a_bound(study: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "s")
    cells = paper_cells(epochs=2, instrument_every_steps=390)
    write_synthetic_study(folder.path, cells=cells, seeds=[0])
    rows = folder.read_records("layers").to_pylist()
    rows[100]["gradient_max_abs"] = 11.0
    folder.write_records("layers", build_table("layers", rows))
    query = 'kind = "layers", column = "gradient_max_abs", statistic = "max"'
    checked = _check(load_study(folder), tmp_path, query, "at_most = 10.0")
    assert (checked.verdict, checked.value) == ("contradicted", 11.0)


def test_a_claim_of_the_text_is_judged_on_the_reading_that_the_program_supports(study: Study) -> None:
    """The last logged gradient of each trial, and in the table the other reading beside the verdict."""
    (checked,) = [c for c in check_claims(study) if c.claim.id == "gradient-norm-at-convergence"]
    cell = study.info.cells[0].cell_id
    last = [
        max((row["step"], row["gradient_mean_abs"]) for row in study.folder.read_records("steps").to_pylist()
            if row["trial_id"] == trial and row["gradient_mean_abs"] is not None)[1]
        for trial in study.trials.loc[study.trials["cell_id"] == cell, "trial_id"]
    ]  # fmt: skip
    assert checked.value == pytest.approx(np.mean(last))
    reason = build_claims(study).frame.set_index("id").loc["gradient-norm-at-convergence", "reason"]
    assert "text only: the last logged value" in str(reason)


def test_the_table_counts_its_verdicts(study: Study) -> None:
    table, counts = build_claims(study), count_verdicts(check_claims(study))
    assert sum(counts.values()) == len(table.frame)
    assert table.frame["verdict"].value_counts().to_dict() == {name: n for name, n in counts.items() if n}
    row = table.frame.set_index("id").loc["test-accuracy-experiment-1"]
    assert row["published"] == "93.10 ± 0.50 %"
    assert row["published_value"] == 0.9310
    assert row["measured"].startswith("93.")
