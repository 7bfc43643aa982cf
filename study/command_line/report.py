"""What a command says about the results of a study: its comparison table, and the report that it has written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from analysis.records.study_folder import StudyFolder
from trainable.config import cell_id
from trainable.records.trial_state import TrialState


def report_results(folder: StudyFolder) -> Path:
    """Write the report from the study's records and print the comparison; returns the page."""
    from analysis.report.page import write_report  # matplotlib and the like take a second to import

    page = write_report(folder)
    print_comparison(folder)
    return page


def describe_unfinished(folder: StudyFolder, states: Iterable[TrialState]) -> list[str]:
    """What became of trials that did not complete, one line for the seeds of a cell that ended alike."""
    labels = {cell.cell_id: f"{cell.label}, " for cell in folder.read_study().cells}
    alike: dict[tuple[str, str, str], list[TrialState]] = {}
    for state in states:
        key = state.status, labels.get(cell_id(state.config), ""), state.reason or "not run"
        alike.setdefault(key, []).append(state)
    lines = []
    for (status, label, reason), own in alike.items():
        seeds = ", ".join(str(state.config.seed) for state in own)
        which = f"seeds {seeds}" if len(own) > 1 else f"seed {seeds}, trial {own[0].trial_id}"
        lines.append(f"{status}: {label}{which}: {reason}")
    return lines


def print_comparison(folder: StudyFolder) -> None:
    """Print the table that compares the cells."""
    from analysis.results.formats import to_text
    from analysis.tables import build_tables

    comparison = build_tables(folder, ["comparison"])["comparison"]
    print(f"\n{to_text(comparison, width=shutil.get_terminal_size((120, 24)).columns)}")
