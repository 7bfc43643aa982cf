"""`study run` goes on with the oldest study that is kept, which this code is said to train the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import StudyInfo
from tests.support.faults import Workplace, states
from tests.support.stored_studies import STUDIES
from trainable.fingerprint import TRAINS_THE_SAME

pytestmark = [pytest.mark.integration, pytest.mark.faults]
OLDEST = STUDIES / next(iter(TRAINS_THE_SAME.values())) / "grid"


def read_grid(study: StudyInfo) -> str:
    """The grid file of a stored study: its cells, each with all that it is made of."""
    lines = [f"name = {json.dumps(study.name)}", f"seeds = {list(study.seeds)}"]
    for cell in study.cells:
        lines += ["[[cells]]", f"label = {json.dumps(cell.label)}"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in cell.config.items() if value is not None]
    return "\n".join(lines)


def test_the_same_command_goes_on_with_a_study_of_an_earlier_version(tmp_path: Path) -> None:
    """The one trial is done and stays as it is; the other goes on after its last epoch. Another torch may be said, no other code."""
    stored = StudyFolder(OLDEST)
    workplace = Workplace(tmp_path, read_grid(stored.read_study()))
    folder = workplace.study("grid")
    shutil.copytree(OLDEST, folder.path)
    before = {state.status: state for state in states(stored).values()}
    done, begun = before["completed"], before["pending"]
    kept = {path: path.read_bytes() for path in folder.trial(done.trial_id).glob("*.parquet")}
    output = workplace.run("grid", "--accept-changes")
    epochs, reached = begun.config.epochs, begun.epochs_completed
    assert f"epoch {reached + 1}/{epochs} " in output
    assert f"epoch {reached}/{epochs} " not in output
    accepted = folder.read_study().accepted_changes
    assert {change["what"] for entry in accepted for change in entry["changes"]} <= {"torch"}
    after = states(folder)
    assert {state.status for state in after.values()} == {"completed"}
    assert len(after) == 2
    assert after[begun.trial_id].attempts == begun.attempts + 1
    assert after[done.trial_id].attempts == done.attempts
    assert {path: path.read_bytes() for path in kept} == kept
    assert kept
    earlier = pq.read_table(stored.trial(begun.trial_id) / "epochs.parquet").to_pylist()
    now = pq.read_table(folder.trial(begun.trial_id) / "epochs.parquet").to_pylist()
    assert [{name: row[name] for name in earlier[0]} for row in now[:reached]] == earlier
    assert [row["epoch"] for row in now] == list(range(1, epochs + 1))
