"""What a command says about trials that did not complete: the cell, its seeds, the reason."""

from __future__ import annotations

from pathlib import Path

from study.command_line.report import describe_unfinished
from tests.support.studies import build_cell, write_synthetic_study
from trainable.config import TrialConfig
from trainable.records.trial_state import TrialState


def test_seeds_that_ended_alike_share_a_line_that_names_their_cell(tmp_path: Path) -> None:
    cells = [build_cell("deep", epochs=1, width=2), build_cell("wide", epochs=1, width=4)]
    folder = write_synthetic_study(tmp_path / "study", cells=cells, seeds=[0])
    deep, wide = (TrialConfig.from_dict({**cell.config, "seed": 0}) for cell in folder.read_study().cells)
    failed = [TrialState(deep, "data", status="failed", reason="net.py:3 (x / 0): ZeroDivisionError")]
    failed.append(
        TrialState(
            TrialConfig.from_dict({**deep.to_dict(), "seed": 1}), "data", status="failed", reason=failed[0].reason
        )
    )
    lost = TrialState(wide, "data", status="interrupted")
    assert describe_unfinished(folder, [*failed, lost]) == [
        "failed: deep, seeds 0, 1: net.py:3 (x / 0): ZeroDivisionError",
        f"interrupted: wide, seed 0, trial {lost.trial_id}: not run",
    ]
