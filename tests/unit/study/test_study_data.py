"""The data set of a study: one for all its cells, found beside the grid file where it is the user's, counted before it is planned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from study.driver.study_data import check_study_source, is_size_known
from study.run import main
from study.spec.grid_file import load_grid
from study.spec.study_spec import build_spec
from tests.support.data_folders import write_class_folders

OWN = """
import numpy as np
def make():
    images = np.arange(80 * 8 * 8).reshape(80, 8, 8, 1).astype(np.uint8)
    return (images[:64], np.arange(64) % 2), (images[64:], np.arange(16) % 2), ["even", "odd"]
"""


def write_grid(folder: Path, *lines: str, grid: str = "learning_rate = [0.05, 0.1]") -> str:
    base = ["width = 1", "epochs = 1", "batch_size = 16", *lines]
    text = "\n".join(['name = "own"', "[base]", *base, "[grid]", grid])
    (folder / "own.toml").write_text(text)
    return str(folder / "own.toml")


def test_a_plan_counts_the_images_of_ones_own_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_class_folders(tmp_path / "images")
    grid = write_grid(tmp_path, 'dataset = "images"', "image_size = 16")
    asked = ["--grid", grid, "--data", str(tmp_path / "images"), "--results", str(tmp_path / "results"), "--plan"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "own images 40/20" in said
    assert f"class folders in {tmp_path}/images" in said
    assert not (tmp_path / "results").exists()


def test_a_function_is_found_beside_the_grid_file(tmp_path: Path) -> None:
    """In a process of its own each time, as a user's: what a process was once provided with stays in it."""

    def plan(grid: str) -> subprocess.CompletedProcess[str]:
        asked = ["--grid", grid, "--results", str(tmp_path / "results"), "--plan"]
        return subprocess.run([sys.executable, "-m", "study.run", *asked], capture_output=True, text=True, check=False)

    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    done = plan(write_grid(tmp_path, f'dataset = "{name}:make"'))
    assert done.returncode == 0, done.stderr
    assert f"{name}:make 64/16" in done.stdout
    assert f"data      {name}:make (source " in done.stdout
    (tmp_path / f"{name}.py").write_text(OWN.replace("images = ", "images = 1 / 0 + ").replace("make", "break_it"))
    done = plan(write_grid(tmp_path, f'dataset = "{name}:break_it"'))
    assert done.returncode == 2
    assert f"{name}.py:4 (images = 1 / 0 + np.arange" in done.stderr
    done = plan(write_grid(tmp_path, f'dataset = "{name}:brake_it"'))
    assert done.returncode == 2
    assert f"{name} has no function brake_it; did you mean break_it?" in done.stderr


def test_all_cells_have_the_same_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_class_folders(tmp_path / "images")
    grid = write_grid(tmp_path, 'dataset = "images"', grid="image_size = [16, 24]")
    assert main(["--grid", grid, "--data", str(tmp_path / "images"), "--plan"]) == 2
    assert "a study has one data set; make one study for each of them" in capsys.readouterr().err


def test_the_published_study_is_counted_without_reading(tmp_path: Path) -> None:
    spec = build_spec(load_grid("paper"))
    assert is_size_known(spec)
    write_class_folders(tmp_path)
    assert check_study_source(spec, tmp_path) == f"class folders in {tmp_path}"
