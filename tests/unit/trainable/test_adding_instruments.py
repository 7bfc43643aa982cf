"""One instrument of each kind, as docs/adding-your-own.md has them, in a folder of their own: from the measurement to the
column, with no other edit.

They are added in another process, because the columns of records are settled when trainable.records.tables is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.images import make_image_data
from tests.support.page_examples import read_examples
from trainable.config import TrialConfig, trial_id
from trainable.instrument import TensorInstrument
from trainable.records.checkpoint import list_checkpoints, read_checkpoint
from trainable.records.columns import COLUMNS
from trainable.trial import Placement, run_trial

ROOT = Path(__file__).parents[3]
CONFIG = TrialConfig(dataset="synthetic", width=1, epochs=3, batch_size=32, learning_rate=0.05, log_every_steps=1)
DATA = make_image_data()

# One that comes before all others, spoils the room that it works in, as it may, and measures what is no number.
SPOILER = """
import pyarrow as pa
from trainable.instrument import Column, TensorInstrument, TrialInstrument, measured_column

def spoil(step):
    step.work.rows.fill_(float("nan"))
    return step.work.sums()[None]

SPOILER = TensorInstrument(name="a spoiler", columns=(measured_column("spoilt", "NaN"),), num_values=1, before_step=spoil,
                           finish=lambda values, tensors: {"spoilt": values[:, 0]})
AFTER = TensorInstrument(name="another", columns=(measured_column("spoilt_after", "NaN"),), num_values=1, after_step=spoil,
                         finish=lambda values, tensors: {"spoilt_after": values[:, 0]})
NOTHING = TrialInstrument(name="nothing", columns=(Column("final_nothing", pa.float64(), "", "no number"),),
                          measure=lambda end: {"final_nothing": float("nan")})
"""


def files() -> dict[str, str]:
    """The instruments of docs/adding-your-own.md, and one that is nasty, by the names of their files."""
    examples = {name: text for name, text in read_examples().items() if name.startswith("trainable/instruments/")}
    return {"a_spoiler.py": SPOILER, **{Path(name).name: text for name, text in examples.items()}}


RUN = """
import json, sys
from pathlib import Path
import trainable.instruments
trainable.instruments.__path__.insert(0, sys.argv[2])
import trainable.records.tables
assert "torch" not in sys.modules, "records are read without torch"
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from analysis.sources.pull_wandb import RunHistory, write_runs
from study.folder.ledger import consolidate
from study.folder.repair import repair_study, write_study
from study.plan.calibration import Speed
from study.tracking.rows import expand_epoch, final_values
from tests.support.images import make_image_data
from tests.support.readme import render_columns
from tests.support.studies import build_cell, build_study
from trainable.config import TrialConfig, trial_id
from trainable.trial import Placement, run_trial
folder, data = StudyFolder(Path(sys.argv[1])), make_image_data()
config = TrialConfig.from_dict(json.loads(sys.argv[3]))
cell = build_cell("a", **{name: value for name, value in config.to_dict().items() if name != "seed"})
write_study(folder, build_study([cell], (0,), 192, {"fingerprint": data.fingerprint}, {}))
path = folder.trial(trial_id(config, data.fingerprint))
run_trial(config, data, path, Placement())
consolidate(folder)
study = load_study(folder)
(path / "trial.json").write_text("{")
repair_study(folder)
steps = folder.read_records("steps").to_pylist()
rows = [row.values for epoch in folder.read_records("epochs").to_pylist()
        for row in expand_epoch(epoch, [step for step in steps if step["epoch"] == epoch["epoch"]])]
rows.append(final_values([0.5], 0.5, json.loads((path / "trial.json").read_text())["measured"]))
write_runs([RunHistory("x", "finished", config.to_dict(), rows)], "group", StudyFolder(folder.path / "pulled"))
pulled = load_study(folder.path / "pulled")
speed = Speed(0.0, 0.0, {"noise_scale": 1.0, "running_means": 3.0}, 0.0, 0)
print(json.dumps({
    "layers": study.layers[["step", "layer", "sign_changes", "weight_l2"]].to_dict("list"),
    "steps": study.steps[["step", "sign_changes"]].to_dict("list"),
    "epochs": study.epochs["running_mean_abs"].tolist(),
    "trials": study.trials[["final_weight_l2", "final_nothing"]].to_dict("list"),
    "rebuilt": json.loads((path / "trial.json").read_text())["measured"],
    "columns": {kind: table.names for kind, table in trainable.records.tables.SCHEMAS.items()},
    "document": render_columns(),
    "w&b": rows,
    "pulled": {**pulled.steps.to_dict("list"), **pulled.trials.to_dict("list")},
    "epoch_s": speed.epoch_s(config, 320, 0),
}))
"""


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study folder of one trial that was measured by them, and what was read from it."""
    folder, instruments = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("instruments")
    for name, text in files().items():
        (instruments / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(instruments), json.dumps(CONFIG.to_dict())], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same trial without them."""
    folder = tmp_path_factory.mktemp("plain")
    run_trial(CONFIG, DATA, folder, Placement())
    return folder


def test_a_tensor_instrument_has_a_column_of_layers_and_one_of_steps(added: tuple[Path, dict[str, Any]]) -> None:
    _, found = added
    layers = found["layers"]
    assert sum(layers["sign_changes"]) > 0
    assert all(count == int(count) for count in layers["sign_changes"])
    totals = dict.fromkeys(layers["step"], 0.0)
    for step, count in zip(layers["step"], layers["sign_changes"], strict=True):
        totals[step] += count
    assert dict(zip(found["steps"]["step"], found["steps"]["sign_changes"], strict=True)) == pytest.approx(
        {step: totals.get(step, float("nan")) for step in found["steps"]["step"]}, nan_ok=True
    )


def test_an_epoch_instrument_has_a_column_of_epochs_at_its_cadence(added: tuple[Path, dict[str, Any]]) -> None:
    first, second, third = added[1]["epochs"]
    assert first > 0
    assert third != first
    assert second != second, "null: every second epoch, from the first"


def test_a_trial_instrument_has_a_column_of_trials_also_when_its_state_is_rebuilt(
    added: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = added
    (newest, *_) = list_checkpoints(folder / "trials" / trial_id(CONFIG, DATA.fingerprint))
    weights = [value for name, value in read_checkpoint(newest).model.items() if name.endswith("weight")]
    norm = torch.cat([value.double().flatten() for value in weights]).norm().item()
    assert found["trials"]["final_weight_l2"] == [pytest.approx(norm)]
    assert found["rebuilt"] == {"final_weight_l2": pytest.approx(norm), "final_nothing": None}


def test_columns_documents_tracking_and_plan_follow(added: tuple[Path, dict[str, Any]]) -> None:
    _, found = added
    new = {"layers": ["spoilt", "spoilt_after", "sign_changes"], "epochs": ["running_mean_abs"], "steps": ["sign_changes"],
           "trials": ["final_weight_l2", "final_nothing"], "model": []}  # fmt: skip
    for kind, names in new.items():
        known = [column.name for column in COLUMNS[kind]]
        assert [name for name in found["columns"][kind] if name not in names] == known, "the order stays"
        assert set(names) <= set(found["columns"][kind])
        assert all(f"| `{name}` |" in found["document"] for name in names)
    sent = {name for row in found["w&b"] for name in row}
    assert {"instruments/running_mean_abs", "instruments/sign_changes"} <= sent
    assert found["w&b"][-1]["instruments/final_weight_l2"] == found["trials"]["final_weight_l2"][0]
    assert "instruments/final_nothing" not in sent
    for kind, name in (("steps", "sign_changes"), ("trials", "final_weight_l2")):
        assert found["pulled"][name] == pytest.approx(found[kind][name], nan_ok=True), "W&B gives it back"
    assert found["epoch_s"] == pytest.approx(1.0 + 3.0 / 2)


def test_weights_and_all_other_measurements_are_the_same_bit_for_bit(
    added: tuple[Path, dict[str, Any]], plain: Path
) -> None:
    path = added[0] / "trials" / trial_id(CONFIG, DATA.fingerprint)
    with_them, without = (read_checkpoint(list_checkpoints(folder)[0]) for folder in (path, plain))
    assert all(torch.equal(value, without.model[name]) for name, value in with_them.model.items())
    for kind, table in without.records.tables().items():
        times = [name for name in table.column_names if name.endswith("_s") or name == "peak_memory_bytes"]
        expected = table.drop_columns(times)
        assert expected.equals(with_them.records.tables()[kind].select(expected.column_names)), kind


def test_half_a_declaration_is_refused() -> None:
    with pytest.raises(ValueError, match="instrument half: give it before_step or after_step"):
        TensorInstrument(name="half", columns=(), num_values=1, finish=lambda values, tensors: {})
