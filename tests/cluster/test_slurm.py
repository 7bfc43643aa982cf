"""deploy/slurm.sbatch on a real slurmctld and slurmd: a study is asked to make room, queues itself again, and is done."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from analysis.records.study_folder import StudyFolder
from study.folder.ledger import list_states
from tests.cluster.test_service import write_grid
from tests.support.faults import wait_until
from tests.support.head_by_hand import REPOSITORY
from tests.support.slurm import Slurm, start_slurm, why_not

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(500),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
EPOCHS = 120  # neither trial may end before it has to make room


def test_a_study_makes_room_and_goes_on_when_it_gets_its_node_again(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with start_slurm(tmp_path / "slurm") as slurm:
        grid = write_grid(tmp_path, "queued", EPOCHS)
        job = submit(slurm, tmp_path, "--grid", grid, "--results", str(results), "--checkpoint-interval", "1")
        wait_until(lambda: epochs_of(results) >= 4, 200)
        assert beyond_loopback(slurm) == [], "a head of one node listens on its loopback alone"
        slurm.run("scancel", "--batch", "--signal=USR1", job)  # what Slurm sends before the time limit
        slurm.wait_for(job, "PENDING")
        assert 4 <= epochs_of(results) < 2 * EPOCHS
        slurm.run(
            "scontrol", "update", f"jobid={job}", "starttime=now"
        )  # Slurm leaves who is queued again some minutes
        slurm.wait_for(job, "COMPLETED")
        log = (tmp_path / "study.log").read_text()
    assert "2 to run, 2 of them from a checkpoint" in log, log
    assert [(state.status, state.epochs_completed) for state in list_states(StudyFolder(results / "queued"))] == [
        ("completed", EPOCHS), ("completed", EPOCHS),
    ]  # fmt: skip


def submit(slurm: Slurm, folder: Path, *arguments: str) -> str:
    """Submit the study as a user would; the job's number."""
    said = slurm.run(
        "sbatch", f"--output={folder / 'study.log'}", "deploy/slurm.sbatch", *arguments, cwd=REPOSITORY, STUDY_VENV=sys.prefix,
        RAY_worker_niceness="0",
    )  # fmt: skip
    return said.split()[-1]


def epochs_of(results: Path) -> int:
    return sum(state.epochs_completed for state in list_states(StudyFolder(results / "queued")))


def beyond_loopback(slurm: Slurm) -> list[str]:
    """What listens on the node beyond its loopback, Slurm's own programs aside."""
    lines = slurm.run("ss", "--tcp", "--listening", "--numeric", "--processes", "--no-header").splitlines()
    assert any("gcs_server" in line for line in lines)
    own = re.compile(r'\(\("(srun|slurmd|slurmctld|slurmstepd)"')
    return [
        line
        for line in lines
        if not own.search(line) and not re.match(r"LISTEN +\d+ +\d+ +(127\.|\[::ffff:127\.|\[::1\])", line)
    ]
