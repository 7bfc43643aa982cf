"""What travels to the cluster with a study: the project's packages, its grid file, and which commit they are of.

Nothing else of the working folder does: no results, no data, no .git, nothing secret. Of the user's code that is the file of
each module that the grid or --set names as `package.module:function`, and the __init__.py of its packages.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from study.folder.study_record import PROVENANCE_FILE, describe_source
from trainable.user_code import provided

ROOT = Path(__file__).parents[2]
PACKAGES = ("study", "trainable", "analysis")
GRID_FILE = "submitted_grid.toml"


@contextmanager
def stage_package(grid: str) -> Iterator[Path]:
    """A temporary folder with what travels; `grid` is the name of a shipped grid or the path of a grid file.

    The user's modules are those that its specification has read: beside the grid file there as here.
    """
    with TemporaryDirectory(prefix="study-package-") as name:
        folder = Path(name)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        if (ROOT / "pyproject.toml").exists():
            shutil.copy(ROOT / "pyproject.toml", folder)
        if is_grid_file(grid):
            shutil.copy(grid, folder / GRID_FILE)
            _copy_claims(Path(grid), folder)
        for source in provided():
            name = "__init__" if source.is_package else ""
            path = folder.joinpath(*source.module.split("."), name).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source.text, encoding="utf-8")
        (folder / "study" / PROVENANCE_FILE).write_text(json.dumps(describe_source()))
        yield folder


def _copy_claims(grid: Path, folder: Path) -> None:
    """The claims file that a grid names goes beside its copy, under its name there."""
    named = tomllib.loads(grid.read_text(encoding="utf-8")).get("analysis", {}).get("claims", "")
    if named not in ("", "worksheet") and not Path(named).is_absolute() and ".." not in Path(named).parts:
        (folder / named).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(grid.parent / named, folder / named)


def is_grid_file(grid: str) -> bool:
    """True where --grid names a file of the user's, which has to travel."""
    return Path(grid).suffix == ".toml" or Path(grid).is_file()
