"""Reads a study folder and says what it shows; never trains. `load_study(path)` gives the records as DataFrames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.records.frames import Study

__all__ = ["load_study"]


def load_study(path: Path | str) -> Study:
    """The study in a folder: `.trials`, `.epochs`, `.steps`, `.layers` and `.model` are pandas DataFrames.

    Errors: StudyFolderError where the folder is missing, damaged, foreign or written by a newer version.
    """
    from analysis.records.frames import (
        load_study as load,  # pandas takes half a second, which a command's --help need not wait
    )

    return load(path)
