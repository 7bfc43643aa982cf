"""Studies of earlier and of newer versions: what docs/compatibility.md promises.

tests/data/studies holds what earlier versions wrote. A newer version is made of this one: a copy of its source with a
configuration field and columns that this one does not know. What trains is run by `make test-killed`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analysis.__main__
from analysis.figures import draw_study_figures
from analysis.records.frames import load_study
from analysis.records.study_folder import IncompatibleStudyError, StudyFolder, StudyFolderError
from analysis.tables import build_tables
from study.folder.ledger import consolidate, open_ledger
from study.folder.repair import repair_study
from study.folder.study_record import find_changes
from study.search.journal import SearchJournal
from study.spec.grid_file import parse_grid
from study.spec.study_spec import build_spec
from tests.support.images import make_image_data
from tests.support.stored_studies import GRIDS, STUDIES
from tests.support.studies import build_cell, build_study
from trainable.config import TrialConfig, cell_id, trial_id
from trainable.data.data_set import load_data
from trainable.data.image_data import ImageData
from trainable.fields import option
from trainable.fingerprint import TRAINS_THE_SAME, code_fingerprint, cpu_name
from trainable.records.checkpoint import list_checkpoints, load_newest_checkpoint
from trainable.records.tables import TrialRecords, build_table
from trainable.records.trial_state import RECORD_KINDS, TrialState, read_state, write_state
from trainable.training.loop import EpochResult
from trainable.trial import Placement, run_trial

VERSIONS = sorted(path.name for path in STUDIES.iterdir() if path.is_dir())
OLDEST = {path.name: path for version in reversed(TRAINS_THE_SAME.values()) for path in (STUDIES / version).iterdir()}
TIMES = ("train_time_s", "eval_time_s", "instrument_time_s", "images_per_s", "peak_memory_bytes")
ROOT = Path(__file__).parents[3]
DATA = make_image_data()
CONFIG = TrialConfig(dataset="synthetic", width=1, epochs=2, batch_size=32, learning_rate=0.05)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("synthetic")


@pytest.fixture(params=VERSIONS)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the studies that a version has written."""
    shutil.copytree(STUDIES / request.param, tmp_path / "stored")
    return tmp_path / "stored"


@pytest.mark.parametrize("path", OLDEST.values(), ids=OLDEST)
def test_a_report_is_made_of_the_oldest_study_of_each_kind(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(path, tmp_path / "study")
    assert analysis.__main__.main([str(copy)]) == 0
    assert load_study(path).info.title in (copy / "report" / "index.html").read_text()


@pytest.mark.faults
def test_tables_and_figures_are_made_of_all_others() -> None:
    for path in set(STUDIES.glob("*/*")) - set(OLDEST.values()):
        study = load_study(path)
        tables, figures = build_tables(study), list(draw_study_figures(study))
        assert len(tables["trials"].frame) == len(study.trials) > 0
        drawn = {figure.name for figure in figures if figure.figure is not None}
        assert drawn >= {"training_curves", *(["gradient_flow-cell1"] if path.name == "grid" else [])}


@pytest.mark.faults
def test_an_interrupted_trial_of_a_stored_study_goes_on(stored: Path, data: ImageData) -> None:
    folder = StudyFolder(stored / "grid")
    before = folder.read_records("epochs")
    assert repair_study(folder) == []
    states = {state.status: state for state in consolidate(folder)}
    assert folder.read_records("epochs").equals(before)
    configs = [states[status].config for status in ("completed", "pending")]
    ledger = open_ledger(folder, configs, data.fingerprint)
    assert (len(ledger.done), len(ledger.to_run)) == (1, 1)
    (left,) = ledger.to_run
    epochs: list[int] = []
    state = run_trial(left.config, data, folder.trial(left.trial_id), Placement(num_threads=1), on_epoch=lambda r: epochs.append(r.epoch))  # fmt: skip
    assert epochs == list(range(left.epochs_completed + 1, left.config.epochs + 1))
    assert (state.status, state.attempts) == ("completed", left.attempts + 1)
    assert not [note for note in state.notes if "cannot be used" in note]
    consolidate(folder)
    rows = pq.read_table(folder.trial(left.trial_id) / "epochs.parquet").to_pylist()
    earlier = [row for row in before.to_pylist() if row["trial_id"] == left.trial_id]
    assert rows[: len(earlier)] == earlier
    assert [row["epoch"] for row in rows] == list(range(1, left.config.epochs + 1))
    assert load_study(folder).trials["status"].tolist() == ["completed", "completed"]


def test_a_stored_search_goes_on_with_further_trials(tmp_path: Path) -> None:
    """Its journal was begun before `image_size` and other fields were."""
    shutil.copytree(STUDIES / "68e7e52" / "search", tmp_path / "search")
    folder = StudyFolder(tmp_path / "search")
    asked = build_spec(parse_grid(GRIDS["search"], "search.toml"), trials=4)
    journal = SearchJournal(folder, asked, folder.read_study().data["fingerprint"])
    suggestion = journal.suggest()
    assert suggestion is not None
    assert suggestion.number == 3
    journal.close()
    with pytest.raises(StudyFolderError, match=r"another image_size \(32, now 64\)"):
        _ = SearchJournal(folder, replace(asked, search_base={**asked.search_base, "image_size": 64}), "d")


def test_what_the_first_stored_version_did_not_measure_is_null() -> None:
    study = load_study(STUDIES / "2de36d5" / "grid")
    assert "test_correct" not in pq.read_schema(STUDIES / "2de36d5" / "grid" / "epochs.parquet").names
    assert study.epochs["test_correct"].isna().all()
    assert study.epochs["test_accuracy"].notna().all()


@pytest.mark.faults
@pytest.mark.parametrize("fingerprint", TRAINS_THE_SAME)
def test_code_that_is_said_to_train_the_same_does(fingerprint: str, data: ImageData, tmp_path: Path) -> None:
    """Each trial of the stored grid again, column for column; on another kind of CPU, which rounds differently, nearly."""
    folder = StudyFolder(STUDIES / TRAINS_THE_SAME[fingerprint] / "grid")
    study = folder.read_study()
    assert study.code["fingerprint"] == fingerprint
    assert [c["what"] for c in find_changes(study, replace(study, code={"fingerprint": code_fingerprint()}))] == []
    states = [state for path in folder.trials.iterdir() if (state := read_state(path)) is not None]
    assert {state.config.precision for state in states} == {"fp32", "bf16"}
    for state in states:
        assert state.num_threads is not None
        placement, exactly = Placement(num_threads=state.num_threads), state.hardware == cpu_name()
        again = tmp_path / state.trial_id
        stop, on_epoch = stop_after(state.epochs_completed)
        run_trial(state.config, data, again, placement, stop=stop, on_epoch=on_epoch)
        assert_same_records(folder.trial(state.trial_id), again, exactly=exactly)


def assert_same_records(known: Path, again: Path, *, exactly: bool) -> None:
    """All that the one trial folder holds of training is in the other one too; times are no part of it."""
    for kind in RECORD_KINDS:
        table = pq.read_table(known / f"{kind}.parquet")
        table = table.drop_columns([name for name in TIMES if name in table.column_names])
        found = pq.read_table(again / f"{kind}.parquet", columns=table.column_names)
        assert_same_rows(table, found, exactly=exactly)


def assert_same_rows(known: pa.Table, again: pa.Table, *, exactly: bool) -> None:
    """Every row of `known` stands in `again`, which may have more: of later epochs, or steps that were not measured before."""
    keys = [name for name in ("epoch", "step", "layer") if name in known.column_names]
    found = {tuple(row[key] for key in keys): row for row in again.to_pylist()}
    assert known.num_rows > 0
    for row in known.to_pylist():
        same = found[tuple(row[key] for key in keys)]
        if exactly:
            assert same == row
        elif row["epoch"] == 1:
            losses = [name for name in ("train_loss", "batch_loss") if name in row]
            assert [same[name] for name in losses] == pytest.approx([row[name] for name in losses], rel=0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaterConfig(TrialConfig):
    """A configuration with a field that was added later."""

    drop_path: float = option(0.0, "probability that a block is left out", low=0, below=1)


def test_a_later_field_counts_in_the_ids_only_where_it_is_not_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TrialConfig.__init__.__globals__["_TYPES"], "drop_path", float)
    plain, later = TrialConfig(seed=3), LaterConfig(seed=3)
    assert (trial_id(later, "d"), cell_id(later)) == (trial_id(plain, "d"), cell_id(plain))
    smoothed = LaterConfig(seed=3, drop_path=0.1)
    assert trial_id(smoothed, "d") not in (
        trial_id(plain, "d"),
        trial_id(LaterConfig(seed=3, drop_path=0.2), "d"),
    )
    assert cell_id(smoothed) == cell_id(LaterConfig(seed=4, drop_path=0.1)) != cell_id(plain)


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_of_stored_trials_stay(version: str) -> None:
    """The names of their folders, written when they were trained."""
    for path in (STUDIES / version).glob("*/trials/*"):
        state = read_state(path)
        assert state is not None
        assert state.trial_id == path.name


def test_keys_that_only_another_version_has_are_written_back(tmp_path: Path) -> None:
    write_state(tmp_path, TrialState(config=CONFIG, data_fingerprint="d"))
    content = json.loads((tmp_path / "trial.json").read_text())
    (tmp_path / "trial.json").write_text(json.dumps({**content, "cooled_to_k": [4, 77]}))
    state = read_state(tmp_path)
    assert state is not None
    write_state(tmp_path, replace(state, status="completed"))
    assert json.loads((tmp_path / "trial.json").read_text()) == {
        **content,
        "status": "completed",
        "cooled_to_k": [4, 77],
    }

    folder = StudyFolder(tmp_path / "study")
    folder.path.mkdir()
    folder.write_study(build_study([build_cell("a", batch_size=64)], (0,), 192, {}, {}))
    content = json.loads(folder.study_json.read_text())
    content["funded_by"] = {"name": "nobody"}
    content["cells"][0]["colour"] = "blue"
    folder.study_json.write_text(json.dumps(content))
    folder.write_study(replace(folder.read_study(), title="another"))
    assert json.loads(folder.study_json.read_text()) == {**content, "title": "another"}


def stop_after(epoch: int) -> tuple[threading.Event, Callable[[EpochResult], None]]:
    """An event, and a callback of a trial that sets it after this epoch."""
    stop = threading.Event()

    def stop_there(result: EpochResult) -> None:
        if result.epoch == epoch:
            stop.set()

    return stop, stop_there


NEWER = """
from pathlib import Path
from study.folder.ledger import consolidate
from study.folder.repair import write_study
from analysis.records.study_folder import StudyFolder
from study.search.journal import SearchJournal
from study.spec.grid_file import parse_grid
from study.spec.study_spec import build_spec
from tests.support.images import make_image_data
from tests.support.studies import build_cell, build_study
from trainable.config import TrialConfig, trial_id
from trainable.training.loop import EpochResult
from trainable.trial import Placement, run_trial
import sys, threading
folder, status, values = StudyFolder(Path(sys.argv[1])), sys.argv[2], eval(sys.argv[3])
data, stop = make_image_data(), threading.Event()
config = TrialConfig(dataset="synthetic", width=1, epochs=2, batch_size=32, learning_rate=0.05, **values)
if not folder.exists():
    cell = build_cell("a", **{n: v for n, v in config.to_dict().items() if n != "seed"})
    write_study(folder, build_study([cell], (0,), 192, {"fingerprint": data.fingerprint}, {}))
state = run_trial(config, data, folder.trial(trial_id(config, data.fingerprint)), Placement(), stop=stop,
                  on_epoch=lambda r: stop.set() if status == "interrupted" else None)
consolidate(folder)
print(state.status, state.epochs_completed, state.attempts, state.notes)
"""


@pytest.fixture(scope="module")
def column_added(tmp_path_factory: pytest.TempPathFactory) -> partial[str]:
    """Runs NEWER with a copy of the source that measures one thing more in an epoch."""
    code = tmp_path_factory.mktemp("newer")
    for package in ("trainable", "analysis", "study", "tests/support"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "tests/__init__.py").touch()
    insert(code / "trainable/records/columns.py", '    Column("train_accuracy",',
           '    Column("train_margin", pa.float32(), "", "of a newer version"),\n')  # fmt: skip
    insert(
        code / "trainable/training/loop.py",
        '            "train_accuracy": ',
        '            "train_margin": float(epoch),\n',
    )
    return partial(run_newer, code)


@pytest.fixture(scope="module")
def field_added(column_added: partial[str], tmp_path_factory: pytest.TempPathFactory) -> partial[str]:
    """The same with one more configuration field."""
    code = tmp_path_factory.mktemp("newest") / "code"
    shutil.copytree(column_added.args[0], code)
    insert(code / "trainable/config.py", "    precision: Precision = _option(",
           '    drop_path: float = _option(0.0, "of whole blocks", low=0, below=1)\n')  # fmt: skip
    return partial(run_newer, code)


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, text + before))


def run_newer(code: Path, folder: StudyFolder, status: str, **values: float) -> str:
    done = subprocess.run(
        [sys.executable, "-c", NEWER, str(folder.path), status, repr(values)], cwd=code, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": str(code)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.faults
def test_a_version_with_one_more_field_and_column_goes_on_with_an_interrupted_trial(
    field_added: partial[str], tmp_path: Path
) -> None:
    folder, (stop, on_epoch) = StudyFolder(tmp_path / "study"), stop_after(1)
    folder.path.mkdir()
    path = folder.trial(trial_id(CONFIG, DATA.fingerprint))
    run_trial(CONFIG, DATA, path, Placement(), stop=stop, on_epoch=on_epoch)
    run_trial(
        replace(CONFIG, seed=1), DATA, folder.trial(trial_id(replace(CONFIG, seed=1), DATA.fingerprint)), Placement()
    )
    said = field_added(folder, "to the end")
    assert said.startswith("completed 2 2")
    assert "cannot be used" not in said
    table = pq.read_table(folder.records("epochs"))
    margins = [row["train_margin"] for row in table.to_pylist() if row["trial_id"] == path.name]
    assert margins == [None, 2.0], "the first epoch was trained before there was such a column"
    assert pq.read_table(folder.records("trials"))["config.drop_path"].to_pylist() == [0.0, 0.0]


@pytest.mark.faults
def test_this_version_keeps_the_columns_of_a_newer_one(column_added: partial[str], tmp_path: Path) -> None:
    """In a trial that it goes on with, and in a study where one of its own trials is beside it."""
    folder = StudyFolder(tmp_path / "study")
    column_added(folder, "interrupted")
    (path,) = folder.trials.iterdir()
    other = folder.trial(trial_id(replace(CONFIG, seed=1), DATA.fingerprint))
    run_trial(replace(CONFIG, seed=1), DATA, other, Placement())
    assert repair_study(folder) == []
    assert run_trial(CONFIG, DATA, path, Placement()).status == "completed"
    consolidate(folder)
    margins = {path.name: [1.0, None], other.name: [None, None]}
    for records in (folder.read_records("epochs"), pa.Table.from_pandas(load_study(folder).epochs)):
        rows = records.to_pylist()
        for name, expected in margins.items():
            assert [row["train_margin"] for row in rows if row["trial_id"] == name] == expected


@pytest.mark.faults
def test_what_only_a_newer_version_understands_is_refused_and_left_as_it_is(
    field_added: partial[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StudyFolder(tmp_path / "study")
    field_added(folder, "interrupted", drop_path=0.1)
    files = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    reason = "'drop_path' that only a newer version of this project knows"
    assert analysis.__main__.main([str(folder.path)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    for refused in (partial(repair_study, folder), partial(consolidate, folder)):
        with pytest.raises(IncompatibleStudyError, match=re.escape(reason)):
            refused()
    (path,) = folder.trials.iterdir()
    with pytest.raises(ValueError, match=re.escape(reason)):
        load_newest_checkpoint(path, CONFIG, DATA.fingerprint)
    assert {path: path.read_bytes() for path in files} == files
    assert list_checkpoints(path)


def test_a_known_column_of_another_type_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """It is no damage: the records are neither made again from the checkpoint nor thrown away."""
    folder = StudyFolder(tmp_path / "study")
    path = folder.trial(trial_id(CONFIG, DATA.fingerprint))
    run_trial(CONFIG, DATA, path, Placement())
    table = pq.read_table(path / "epochs.parquet")
    place = table.schema.get_field_index("train_loss")
    pq.write_table(
        table.set_column(place, "train_loss", table["train_loss"].cast(pa.float32())), path / "epochs.parquet"
    )
    files = {file: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(IncompatibleStudyError, match=r"epochs\.parquet: column train_loss is float, not double"):
        consolidate(folder)
    assert {file: file.read_bytes() for file in path.iterdir()} == files


def test_records_go_on_after_a_checkpoint_that_knows_fewer_columns_and_more() -> None:
    epochs = build_table("epochs", [{"trial_id": "t", "epoch": 1, "step": 3, "train_loss": 0.5, "val_loss": 0.25}])
    other = epochs.drop_columns(["val_loss"]).append_column("surprise", pa.array(["x"]).dictionary_encode())
    empty = TrialRecords.empty()
    streams = TrialRecords(other, empty.steps, empty.layers).to_ipc()
    extended = TrialRecords.from_ipc(streams).extended(TrialRecords(epochs, empty.steps, empty.layers))
    read = TrialRecords.from_ipc(extended.to_ipc()).epochs
    assert read.select(["epoch", "train_loss", "val_loss", "surprise"]).to_pydict() == {
        "epoch": [1, 1], "train_loss": [0.5, 0.5], "val_loss": [None, 0.25], "surprise": ["x", None]
    }  # fmt: skip
