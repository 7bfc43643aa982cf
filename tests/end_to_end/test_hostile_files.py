"""A study folder, a grid or a claims file from someone else: nothing in it is executed, followed out of it, or ends in a
traceback. Every exploit here is shown to work where it is loaded without care.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import study.run
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError, check_links
from study.folder.ledger import consolidate, open_ledger
from study.folder.repair import repair_study
from tests.support.studies import paper_cells, write_synthetic_study
from trainable.config import TrialConfig, trial_id
from trainable.records.tables import SCHEMA_VERSION, SCHEMAS
from trainable.records.trial_state import TrialState, write_state

pytestmark = pytest.mark.end_to_end


class Exploit:
    """Unpickling this creates a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "study"
    write_synthetic_study(path, cells=paper_cells(width=16, epochs=3, dataset="synthetic"), seeds=(0, 1))
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> StudyFolder:
    """A good study folder, to be spoilt."""
    shutil.copytree(original, tmp_path / "results" / "study")
    return StudyFolder(tmp_path / "results" / "study")


def plant_samples(folder: StudyFolder, exploit: Exploit) -> Callable[[], object]:
    np.savez(folder.samples, images=np.array([exploit], dtype=object), class_names=np.array(["a"]))
    return lambda: np.load(folder.samples, allow_pickle=True)["images"]


def plant_class_names(folder: StudyFolder, exploit: Exploit) -> Callable[[], object]:
    images = np.zeros((1, 1, 32, 32, 3), dtype=np.uint8)
    np.savez(folder.samples, images=images, class_names=np.array([exploit], dtype=object))
    return lambda: np.load(folder.samples, allow_pickle=True)["class_names"]


def plant_extension_type(folder: StudyFolder, exploit: Exploit) -> Callable[[], object]:
    """Old pyarrow unpickled the type of such a column when the file was opened."""
    payload = pickle.dumps(exploit)
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    table = pq.read_table(folder.records("epochs"))
    place = table.schema.get_field_index("train_loss")
    table = table.cast(table.schema.set(place, table.schema.field(place).with_metadata(metadata)))
    pq.write_table(table.replace_schema_metadata(SCHEMAS["epochs"].metadata), folder.records("epochs"))
    return lambda: pickle.loads(payload)


def plant_whole_file(name: str) -> Callable[[StudyFolder, Exploit], Callable[[], object]]:
    def plant(folder: StudyFolder, exploit: Exploit) -> Callable[[], object]:
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(exploit))
        return lambda: pickle.loads(path.read_bytes())

    return plant


PLANTS = {
    "samples": plant_samples,
    "class names": plant_class_names,
    "parquet column type": plant_extension_type,
    **{
        name: plant_whole_file(name)
        for name in (
            "study.json", "study.copy.json", "trials.parquet", "epochs.parquet", "samples.npz", "driver.json",
            "ray/attempt-1/tuner.pkl", "ray/attempt-1/experiment_state-1.json", "ray/attempt-1/trainable.pkl",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTS)
def test_a_pickle_in_a_study_folder_is_never_loaded(folder: StudyFolder, tmp_path: Path, name: str) -> None:
    target = tmp_path / "executed"
    PLANTS[name](folder, Exploit(target))
    shutil.copytree(folder.path, tmp_path / "copy")
    load_without_care = PLANTS[name](StudyFolder(tmp_path / "copy"), Exploit(target))
    refusals = []
    for action in (load_study, StudyFolder.read_samples, repair_study, consolidate):
        try:
            action(folder)
        except StudyFolderError as error:
            refusals.append(str(error))
    assert not any("\n" in refusal for refusal in refusals)
    assert not target.exists()
    load_without_care()
    assert target.exists(), "the exploit works where it is loaded without care"


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_hostile_checkpoint_in_a_trial_is_passed_over(tmp_path: Path, form: str) -> None:
    """With the right digest in its name, beside a trial.json that has to be rebuilt from it."""
    folder, config, target = StudyFolder(tmp_path / "study"), TrialConfig(), tmp_path / "executed"
    name = trial_id(config, "d")
    buffer = io.BytesIO()
    torch.save(Exploit(target), buffer) if form == "torch" else pickle.dump(Exploit(target), buffer)
    folder.trial(name).mkdir(parents=True)
    (folder.trial(name) / "trial.json").write_text("{")
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    (folder.trial(name) / f"epoch-00003.{digest}.ckpt").write_bytes(buffer.getvalue())
    assert "the trial starts anew" in repair_study(folder)[0]
    assert [state.trial_id for state in open_ledger(folder, [config], "d").to_run] == [name]
    assert not target.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False) if form == "torch" else pickle.loads(
        buffer.getvalue()
    )
    assert target.exists()


@pytest.mark.parametrize("link", ["trials", "ray", "report", "trials/0123456789abcdef", "report/tables", "."])
def test_links_that_lead_out_of_the_study_are_refused_before_anything_is_written(
    folder: StudyFolder, tmp_path: Path, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = folder.path / link
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Path(os.path.normpath(path)).symlink_to(outside)
    with pytest.raises(StudyFolderError, match="is a link"):
        check_links(folder)
    command = ["--grid", "demo", "--results", str(tmp_path / "results"), "--name", "study"]
    assert study.run.main(command) == 2
    assert "is a link" in capsys.readouterr().err
    assert list(outside.iterdir()) == []


def test_a_file_that_is_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("precious")
    state = TrialState(config=TrialConfig(), data_fingerprint="d")
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "trial.json").symlink_to(outside)
    write_state(tmp_path / "trial", state)
    assert outside.read_text() == "precious"
    assert not (tmp_path / "trial" / "trial.json").is_symlink()


BOMBS = {
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "long number": b"9" * 100_000,
    "not finite": f'{{"schema_version": {SCHEMA_VERSION}, "x": 1e999}}'.encode(),
    "not UTF-8": b"\xff\xfe\x00{",
    "zeros": b"\0" * 1000,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("file", ["study.json", "driver.json"])
def test_json_that_would_break_a_parser_ends_in_one_line(
    folder: StudyFolder, bomb: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder.path / file).write_bytes(BOMBS[bomb])
    if file == "study.json":
        with pytest.raises(StudyFolderError, match=r"study\.json"):
            load_study(folder)
    assert study.run.main(["--grid", "demo", "--results", str(folder.path.parent), "--name", "study"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert len(said) < 2000


def test_a_pickle_in_a_column_stays_bytes(folder: StudyFolder, tmp_path: Path) -> None:
    """Unknown columns of someone else's records are ignored, whatever is in them."""
    target = tmp_path / "executed"
    table = pq.read_table(folder.records("trials"))
    payload = pa.array([pickle.dumps(Exploit(target))] * table.num_rows, pa.binary())
    pq.write_table(table.append_column("surprise", payload), folder.records("trials"))
    load_study(folder)
    assert not target.exists()


@pytest.mark.parametrize("name", ["..", "../outside", "/tmp/x", "a/b", "study/../../x", ".hidden", "a\nb", "~", "-rf"])
def test_study_names_cannot_leave_the_results_folder(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--grid", "demo", "--results", str(tmp_path / "results"), f"--name={name}"]
    assert study.run.main(command) == 2
    assert "study name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
