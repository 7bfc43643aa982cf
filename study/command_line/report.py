"""What a command says about the results of a study: its comparison table, and the report that it has written."""

from __future__ import annotations

import shutil
from pathlib import Path

from analysis.records.study_folder import StudyFolder


def report_results(folder: StudyFolder) -> Path:
    """Write the report from the study's records and print the comparison; returns the page."""
    from analysis.report.page import write_report  # matplotlib and the like take a second to import

    page = write_report(folder)
    print_comparison(folder)
    return page


def print_comparison(folder: StudyFolder) -> None:
    """Print the table that compares the cells."""
    from analysis.results.formats import to_text
    from analysis.tables import build_tables

    comparison = build_tables(folder, ["comparison"])["comparison"]
    print(f"\n{to_text(comparison, width=shutil.get_terminal_size((120, 24)).columns)}")
