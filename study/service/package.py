"""What travels to the cluster with a study: the project's packages, its grid file, and which commit they are of.

Nothing else of the working folder does: no results, no data, no .git, nothing secret.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from study.folder.study_record import PROVENANCE_FILE, describe_source

ROOT = Path(__file__).parents[2]
PACKAGES = ("study", "trainable", "analysis")
GRID_FILE = "submitted_grid.toml"


@contextmanager
def stage_package(grid: str) -> Iterator[Path]:
    """A temporary folder with what travels; `grid` is the name of a shipped grid or the path of a grid file."""
    with TemporaryDirectory(prefix="study-package-") as name:
        folder = Path(name)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        if (ROOT / "pyproject.toml").exists():
            shutil.copy(ROOT / "pyproject.toml", folder)
        if is_grid_file(grid):
            shutil.copy(grid, folder / GRID_FILE)
        (folder / "study" / PROVENANCE_FILE).write_text(json.dumps(describe_source()))
        yield folder


def is_grid_file(grid: str) -> bool:
    """True where --grid names a file of the user's, which has to travel."""
    return Path(grid).suffix == ".toml" or Path(grid).is_file()
