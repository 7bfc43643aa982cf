"""Fetching a study from a folder, from URLs and from W&B runs; what is refused leaves nothing behind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pytest

from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.results.formats import write_tables
from analysis.sources.pull import PullError, pull
from analysis.sources.pull_wandb import RunHistory, write_runs
from analysis.tables import build_tables
from study.tracking.rows import EPOCH_METRICS, STEP_METRICS, expand_epoch
from tests.support.studies import paper_cells, write_synthetic_study

RECORDS = {
    "study.json",
    "samples.npz",
    *(f"{kind}.parquet" for kind in ("trials", "epochs", "steps", "layers", "model")),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    cells = paper_cells(epochs=3, width=4, instrument_every_steps=390)
    folder = write_synthetic_study(tmp_path_factory.mktemp("studies") / "source", cells=cells, seeds=[0, 1])
    write_tables(build_tables(folder, ["comparison", "flops"]), folder)
    for name in (
        "ray/experiment/state.json",
        "trials/abc/0.ckpt",
        "report/tables/.hidden.csv",
        "report/index.html",
        "x.txt",
    ):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("not to be fetched")
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _expected() -> set[str]:
    return RECORDS | {f"report/tables/{n}.{s}" for n in ("comparison", "flops") for s in ("csv", "md", "tex", "html")}


@pytest.mark.parametrize("kind", ["folder", "file url", "fsspec url"])
def test_records_and_tables_and_nothing_else(study: StudyFolder, tmp_path: Path, kind: str) -> None:
    source = {"folder": str(study.path), "file url": study.path.as_uri(), "fsspec url": "memory://bucket/a study"}[kind]
    if kind == "fsspec url":
        fsspec.filesystem("memory").put(f"{study.path}/", "/bucket/a study/", recursive=True)
    fetched = pull(source, tmp_path / "to")
    assert _files(fetched.path) == _expected()
    for name in _expected():
        assert (fetched.path / name).read_bytes() == (study.path / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_fetching_again_replaces_the_copy(study: StudyFolder, tmp_path: Path) -> None:
    pull(str(study.path), tmp_path)
    (tmp_path / "epochs.parquet").write_bytes(b"old")
    before = (tmp_path / "steps.parquet").stat().st_ino
    pull(str(study.path), tmp_path)
    assert len(load_study(tmp_path).epochs) == 12
    assert (tmp_path / "steps.parquet").stat().st_ino == before, "what has not changed stays"


def test_sources_that_are_none(study: StudyFolder, tmp_path: Path) -> None:
    for source, reason in (
        (str(tmp_path / "none"), "no such folder"),
        (str(study.path.parent), "no study there"),
        ((tmp_path / "none").as_uri(), "no study there"),
        ("nosuchscheme://x/y", "nosuchscheme"),
        ("memory://empty", "no study there"),
    ):
        with pytest.raises(PullError, match=reason):
            pull(source, tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_source_is_refused_and_leaves_the_target_alone(study: StudyFolder, tmp_path: Path) -> None:
    pull(str(study.path), tmp_path / "source")
    pull(str(study.path), tmp_path / "to")
    layers = tmp_path / "source" / "layers.parquet"
    layers.write_bytes(layers.read_bytes()[:-100])
    with pytest.raises(PullError, match=r"^layers\.parquet: not a readable Parquet file"):
        pull(str(tmp_path / "source"), tmp_path / "to")
    assert (tmp_path / "to" / "layers.parquet").read_bytes() == (study.path / "layers.parquet").read_bytes()


@pytest.mark.parametrize("url", [False, True])
@pytest.mark.parametrize("link", ["layers.parquet", "report/tables/comparison.csv", "report/tables", "report"])
def test_links_in_a_local_source_are_refused(study: StudyFolder, tmp_path: Path, link: str, url: bool) -> None:
    """A foreign folder could name a file of whoever pulls it, and have it published with the copy."""
    pull(str(study.path), tmp_path / "source")
    path = tmp_path / "source" / link
    path.rename(tmp_path / "secret")
    path.symlink_to(tmp_path / "secret")
    source = (tmp_path / "source").as_uri() if url else str(tmp_path / "source")
    with pytest.raises(PullError, match="is a link, and only files of the study itself are fetched"):
        pull(source, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_links_are_refused_through_fsspec_as_well(study: StudyFolder, tmp_path: Path) -> None:
    pull(str(study.path), tmp_path / "source")
    (tmp_path / "source" / "layers.parquet").rename(tmp_path / "secret")
    (tmp_path / "source" / "layers.parquet").symlink_to(tmp_path / "secret")
    with pytest.raises(PullError, match="is a link"):
        pull(f"local://{tmp_path / 'source'}", tmp_path / "to")


def test_targets_that_hold_something_else_are_left_alone(study: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    other = write_synthetic_study(
        tmp_path / "other", cells=paper_cells(epochs=1), seeds=[0], layers=False, name="other"
    )
    for target, reason in ((tmp_path / "full", "is not empty"), (other.path, "another study"), (study.path, "itself")):
        before = _files(target)
        with pytest.raises(PullError, match=reason):
            pull(str(study.path), target)
        assert _files(target) == before


@pytest.mark.parametrize("path", ["entity/project", "a//b", "a/b/c/d", ""])
def test_a_wandb_path_has_three_parts(tmp_path: Path, path: str) -> None:
    with pytest.raises(StudyFolderError, match="not wandb:ENTITY/PROJECT/GROUP"):
        pull(f"wandb:{path}", tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_wandb_without_a_key_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real wandb; with no key it fails before it asks the network. Reading real runs needs a server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(StudyFolderError, match=r"wandb:a/b/c: .*WANDB_API_KEY"):
        pull("wandb:a/b/c", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def _run(seed: int, state: str = "finished", epochs: int = 3, **config: object) -> RunHistory:
    """A run as worksheet.md section 8 has it logged: percentages, one row per logged step and per epoch."""
    rows: list[dict[str, object]] = []
    for epoch in range(1, epochs + 1):
        for within in range(0, 390, 50):
            step = 390 * (epoch - 1) + within
            row: dict[str, object] = {"_step": step, "train/batch_loss": 2.0 / epoch, "train/batch_acc": 30.0 * epoch}
            if within % 100 == 0:
                row |= {"train/avg_gradient_norm": 0.01 / epoch, "train/max_gradient_norm": 1.0 / epoch}
            rows.append(row)
        accuracy = {"train/epoch_loss": 1.0 / epoch, "train/epoch_acc": 31.0 * epoch, "test/loss": 1.1 / epoch}
        rows.append({"_step": 390 * epoch, "test/acc": 30.0 * epoch + seed, **accuracy})
    complete = {
        "batch_size": 128,
        "learning_rate": 0.2,
        "seed": seed,
        "epochs": 3,
        "width": 8,
        "total_flops": 1,
        **config,
    }
    return RunHistory(f"run{seed}", state, complete, rows)


def test_runs_become_a_study(tmp_path: Path) -> None:
    summary = RunHistory("summary", "finished", {"note": "no trial"}, [])
    runs = [_run(0), _run(1), _run(0, batch_size=64), _run(2, state="crashed", epochs=1), summary]
    write_runs(runs, "group", StudyFolder(tmp_path))
    study = load_study(tmp_path)
    assert [cell.config["batch_size"] for cell in study.info.cells] == [128, 64]
    assert study.info.factors == ("batch_size",)
    assert study.info.seeds == (0, 1, 2)
    assert study.trials["status"].tolist() == ["completed", "completed", "failed", "completed"]
    epochs = study.epochs[study.epochs["trial_id"] == study.trials["trial_id"][1]]
    assert epochs["epoch"].tolist() == [1, 2, 3]
    assert epochs["test_accuracy"].tolist() == pytest.approx([0.31, 0.61, 0.91])
    assert epochs["train_accuracy"].tolist() == pytest.approx([0.31, 0.62, 0.93])
    assert epochs["learning_rate"].tolist() == pytest.approx([0.1 * (1 + math.cos(math.pi * e / 3)) for e in (1, 2, 3)])
    steps = study.steps[study.steps["trial_id"] == study.trials["trial_id"][1]]
    assert steps["step"].tolist() == [390 * e + s for e in range(3) for s in range(0, 390, 50)]
    assert steps["epoch"].tolist() == [e for e in (1, 2, 3) for _ in range(8)]
    assert steps["running_accuracy"].tolist() == pytest.approx([0.3 * e for e in (1, 2, 3) for _ in range(8)])
    assert np.isfinite(steps["gradient_mean_abs"]).sum() == 12
    tables = build_tables(study)
    assert tables["comparison"].frame["seeds"].tolist() == [2, 1]
    assert "rebuilt from W&B" in " ".join(tables["comparison"].notes)


def test_searched_runs_are_left_out_and_warmed_up_ones_keep_their_rate(tmp_path: Path) -> None:
    """A searched trial has no test accuracy: it is no failed cell of a study, but none at all."""
    searched = RunHistory("searched", "finished", {**_run(5).config, "test_limit": 0, "validation_size": 100}, [])
    write_runs([_run(0, warmup_epochs=1), searched], "group", StudyFolder(tmp_path))
    study = load_study(tmp_path)
    assert study.trials["seed"].tolist() == [0]
    assert "1 trials that never saw the test set are left out" in study.info.reductions
    assert study.epochs["learning_rate"].tolist() == pytest.approx([0.2, 0.1, 0.0])


def test_a_learning_rate_that_a_run_logged_is_kept_and_a_missing_one_follows_from_the_schedule(tmp_path: Path) -> None:
    logged = _run(1)
    rows = [{**row, "learning_rate": 0.125} if "test/acc" in row else row for row in logged.rows]
    write_runs([_run(0), replace(logged, rows=rows)], "group", StudyFolder(tmp_path))
    rates = load_study(tmp_path).epochs.groupby("trial_id", sort=False)["learning_rate"].apply(list).tolist()
    assert sorted(rates) == [[0.125] * 3, pytest.approx([0.15, 0.05, 0.0])]


def test_what_tracking_sends_comes_back_as_the_same_records(study: StudyFolder, tmp_path: Path) -> None:
    """There and back: the rows that study/tracking makes of records, as runs, are the same records again."""
    source, runs = load_study(study), []
    for trial in study.read_records("trials").to_pylist():
        config = {name.removeprefix("config."): value for name, value in trial.items() if name.startswith("config.")}
        rows: list[dict[str, object]] = []
        for epoch in study.read_records("epochs").to_pylist():
            if epoch["trial_id"] == trial["trial_id"]:
                steps = [
                    step
                    for step in study.read_records("steps").to_pylist()
                    if (step["trial_id"], step["epoch"]) == (epoch["trial_id"], epoch["epoch"])
                ]
                rows += [{"_step": row.wandb_step, **row.values} for row in expand_epoch(epoch, steps)]
        names = ("trial_id", "data_fingerprint", "code_fingerprint")
        label = source.cells[trial["cell_id"]].label
        runs.append(RunHistory("x", "finished", {**config, "cell": label, **{n: trial[n] for n in names}}, rows))
    write_runs(runs, "group", StudyFolder(tmp_path))
    copy = load_study(tmp_path)
    assert [cell.label for cell in copy.info.cells] == [cell.label for cell in source.info.cells]
    assert list(copy.cells) == list(source.cells)
    assert copy.trials["trial_id"].tolist() == source.trials["trial_id"].tolist()
    for frame, original, columns in (
        (copy.epochs, source.epochs, ["epoch", "step", "learning_rate", *EPOCH_METRICS.values()]),
        (copy.steps, source.steps, ["epoch", "step", *STEP_METRICS.values()]),
    ):
        assert frame["trial_id"].tolist() == original["trial_id"].tolist()
        np.testing.assert_allclose(frame[columns], original[columns], rtol=1e-12)


def test_runs_without_trials_or_with_impossible_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyFolderError, match="no run has the configuration of a trial"):
        write_runs([RunHistory("x", "finished", {}, [])], "group", StudyFolder(tmp_path))
    with pytest.raises(StudyFolderError, match="run run0: batch_size=0"):
        write_runs([_run(0, batch_size=0)], "group", StudyFolder(tmp_path))
