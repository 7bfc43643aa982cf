"""The ledger: what is run again and what is not, and the records it gathers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.records.study_folder import StudyFolder, StudyFolderError
from study.folder.ledger import consolidate, open_ledger, record_failure, register_trials
from trainable.config import TrialConfig, trial_id
from trainable.records.tables import TrialRecords, build_table
from trainable.records.trial_state import TrialState, read_state, write_state
from trainable.trial import export_records

CONFIGS = [TrialConfig(seed=seed, epochs=2) for seed in range(6)]


def write(folder: StudyFolder, config: TrialConfig, status: str, **values: object) -> None:
    state = TrialState(config=config, data_fingerprint="d", status=status, attempts=1)
    write_state(folder.trial(state.trial_id), replace(state, **values))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path)
    for config, status in zip(CONFIGS, ("completed", "diverged", "pruned", "failed", "running"), strict=False):
        write(folder, config, status)
    return folder


def seeds(states: tuple[TrialState, ...]) -> list[int]:
    return [state.config.seed for state in states]


def test_finished_trials_are_not_run_again_and_the_rest_is(folder: StudyFolder) -> None:
    ledger = open_ledger(folder, CONFIGS, "d")
    assert seeds(ledger.done) == [0, 1, 2]
    assert seeds(ledger.to_run) == [3, 4, 5]
    assert ledger.total == 6


def test_failed_trials_can_be_left(folder: StudyFolder) -> None:
    ledger = open_ledger(folder, CONFIGS, "d", retry_failed=False)
    assert seeds(ledger.to_run) == [4, 5]
    assert seeds(ledger.left_failed) == [3]


def test_the_role_is_what_the_study_says_also_after_a_state_was_rebuilt_without_it(folder: StudyFolder) -> None:
    ledger = open_ledger(folder, CONFIGS, "d", role="confirmation")
    assert {state.role for state in (*ledger.done, *ledger.to_run)} == {"confirmation"}
    rebuilt = read_state(folder.trial(trial_id(CONFIGS[0], "d")))
    assert rebuilt is not None
    assert rebuilt.role == "confirmation"


def test_other_data_means_other_trials(folder: StudyFolder) -> None:
    assert seeds(open_ledger(folder, CONFIGS, "other").to_run) == [0, 1, 2, 3, 4, 5]


def test_registering_writes_new_trials_as_pending_and_keeps_what_is_known_of_failed_ones(folder: StudyFolder) -> None:
    write(folder, CONFIGS[3], "failed", failures=("first",), reason="first")
    register_trials(folder, open_ledger(folder, CONFIGS, "d").to_run)
    new = read_state(folder.trial(trial_id(CONFIGS[5], "d")))
    failed = read_state(folder.trial(trial_id(CONFIGS[3], "d")))
    running = read_state(folder.trial(trial_id(CONFIGS[4], "d")))
    assert new is not None
    assert failed is not None
    assert running is not None
    assert (new.status, new.attempts) == ("pending", 0)
    assert (failed.status, failed.reason, failed.failures) == ("pending", None, ("first",))
    assert running.status == "running"


def test_failures_are_added_up_and_never_undo_a_finished_trial(folder: StudyFolder) -> None:
    running = trial_id(CONFIGS[4], "d")
    record_failure(folder, running, "first", final=False)
    record_failure(folder, running, "second", final=True)
    state = read_state(folder.trial(running))
    assert state is not None
    assert (state.status, state.reason, state.failures) == ("failed", "second", ("first", "second"))
    completed = trial_id(CONFIGS[0], "d")
    record_failure(folder, completed, "late", final=True)
    state = read_state(folder.trial(completed))
    assert state is not None
    assert state.status == "completed"


def test_a_damaged_state_names_the_file_and_what_to_do(folder: StudyFolder) -> None:
    (folder.trial(trial_id(CONFIGS[0], "d")) / "trial.json").write_text("{")
    with pytest.raises(
        StudyFolderError, match=r"trial\.json: cannot be read .* the next start of the study rebuilds it"
    ):
        open_ledger(folder, CONFIGS, "d")


def test_records_of_all_trials_are_gathered_in_order_of_seed(folder: StudyFolder) -> None:
    for config in reversed(CONFIGS[:2]):
        name = trial_id(config, "d")
        epochs = build_table("epochs", [{"trial_id": name, "epoch": e, "train_loss": 0.5} for e in (1, 2)])
        layers = build_table("layers", [{"trial_id": name, "epoch": 1, "step": 0, "layer": "fc.weight", "group": "fc"}])
        empty = TrialRecords.empty()
        export_records(folder.trial(name), TrialRecords(epochs, empty.steps, layers))
    states = consolidate(folder)
    assert len(states) == 5
    assert folder.read_records("trials").column("seed").to_pylist() == [0, 1, 2, 3, 4]
    assert folder.read_records("trials").column("status").to_pylist()[1] == "diverged"
    expected = [trial_id(config, "d") for config in CONFIGS[:2] for _ in range(2)]
    assert folder.read_records("epochs").column("trial_id").to_pylist() == expected
    assert folder.read_records("steps").num_rows == 0
    assert folder.read_records("layers").column("layer").to_pylist() == ["fc.weight"] * 2


def test_an_empty_study_gathers_nothing(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert consolidate(folder) == []
    assert folder.read_records("epochs").num_rows == 0


_OTHER_FILE_FAILS = """
import sys
from study.folder.ledger import _open_writer
from trainable.records.tables import SCHEMAS, build_table
def write():
    with open(sys.argv[1], "wb") as file, _open_writer(file, SCHEMAS["steps"]) as writer:
        writer.write_table(build_table("steps", [{"trial_id": "t", "epoch": 1, "step": 0}]))
        raise OSError("no space left for another file")
try:
    write()
except OSError as error:
    print(error)
"""


def test_a_writer_whose_neighbour_failed_says_nothing_when_it_is_collected(tmp_path: Path) -> None:
    """Several files are written at once on a disk that fills; what is said at a collection is seen in another process only."""
    command = [sys.executable, "-c", _OTHER_FILE_FAILS, str(tmp_path / "steps")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "no space left for another file\n"
    assert done.stderr == ""
