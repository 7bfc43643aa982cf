"""docs/your-own-model.md, followed from nothing to a verdict: its files, images in class folders, and one short study with Ray."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.claims.claims_file import load_claims
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder
from analysis.report.page import write_report
from study.page.watched import WatchedStudy
from study.service.package import GRID_FILE, stage_package
from study.spec.grid_file import load_grid
from study.spec.study_spec import build_spec

PAGE = Path(__file__).parents[2] / "docs" / "your-own-model.md"
FILES = dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page, and images of two classes in `images`, none of them square."""
    place = tmp_path_factory.mktemp("own")
    for name, text in FILES.items():
        (place / name).write_text(text)
    draw = np.random.default_rng(0)
    for part, count in (("train", 32), ("test", 8)):
        for label, name in enumerate(("dark", "light")):
            (place / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 128, (20, 24, 3), dtype=np.uint8) + 128 * np.uint8(label)
                Image.fromarray(pixels).save(place / "images" / part / name / f"{number}.png")
    return place


def run(place: Path) -> subprocess.CompletedProcess[str]:
    options = [
        "--grid", "mine.toml", "--data", "images", "--seeds", "2", "--epochs", "1", "--set", "batch_size=16",
        "--max-concurrent", "1", "--no-report",
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "study.run", *options], cwd=place, capture_output=True, text=True, check=False, timeout=600,
        env={**os.environ, "PYTHONPATH": str(PAGE.parents[1])},
    )  # fmt: skip


def test_the_page_holds_a_network_a_grid_and_claims(place: Path) -> None:
    assert set(FILES) == {"mynet.py", "mine.toml", "claims.toml"}
    assert sum(text.count("\n") for name, text in FILES.items() if name != "claims.toml") <= 30
    spec = build_spec(load_grid(str(place / "mine.toml")))
    assert spec.factors == ("model_fields.norm",)
    assert [cell.label for cell in spec.cells] == ["norm True", "norm False"]
    (claim,) = load_claims(place / "claims.toml").claims
    assert claim.query["other"] == {"model_fields.norm": False}
    with stage_package(str(place / "mine.toml")) as staged:
        assert (staged / "mynet.py").read_text() == FILES["mynet.py"]
        assert build_spec(load_grid(str(staged / GRID_FILE))) == spec, "there as here"


@pytest.mark.integration
def test_from_nothing_to_a_verdict(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(place)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (place / "results").iterdir()
    study = load_study(path)
    assert study.trials["status"].tolist() == ["completed"] * 4
    assert set(study.layers["group"].astype(str)) == {"0", "3", "8"} | {"0", "2", "6"}

    marker = place / "imported"
    for name in ("mynet.py", "sitecustomize.py"):
        (path / name).write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.chdir(path)
    page = write_report(StudyFolder(path)).read_text()
    WatchedStudy(StudyFolder(path)).look()
    assert not marker.exists(), "nothing is imported from a study folder"
    source = study.info.cells[0].config["model_source"]
    assert f"mynet:build, source {source}" in page
    assert "With group norm the network is at least a point better." in page

    (place / "mynet.py").write_text(FILES["mynet.py"] + "# changed\n")
    changed = run(place)
    assert changed.returncode == 2
    assert f"code of mynet:build: {source} -> " in changed.stderr
