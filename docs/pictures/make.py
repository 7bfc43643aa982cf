"""Make the pictures of README and docs from the example studies: `make pictures`. architecture.svg is drawn by hand.

The report is built anew from the example's records, its first screen photographed by a headless Chromium, and so are the curves on
the live page; some of its figures are copied in a smaller size. Needs a `chromium` on the PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from analysis.records.study_folder import StudyFolder
from analysis.report.page import write_report
from tests.end_to_end.browser import open_browser
from tests.end_to_end.test_live_page import DRAWN, point_at, serve, visit, wait_for

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
EXAMPLE = EXAMPLES / "factorial-width8"
FIGURES = {"training_curves": "training_curves", "grid_heatmap": "grid_heatmap"}  # of the report: the picture
OF_OTHERS = {
    "paper-width64": {"training_curves": "published_training_curves", "gradient_flow-cell1": "gradient_flow"},
    "branch-width4": {"critical_batch_size": "critical_batch_size"},
    "stability-width4": {"stability": "batch_sharpness", "barriers": "barriers"},
}  # example: its figures
WINDOW = (1200, 860)  # CSS pixels of the first screen
FIGURE_WIDTH = 900


def main() -> int:
    """Write report.png and the figures beside this file; status 2 where there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("error: no chromium on the PATH: install it to make the pictures", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        study = Path(scratch, EXAMPLE.name)
        shutil.copytree(EXAMPLE, study)
        page = write_report(StudyFolder(study))
        photograph(browser, page, Path(scratch, "report.png"))
        photograph_live_page(browser, study, Path(scratch, "live_page.png"))
        for name in ("report.png", "live_page.png"):
            save_small(Path(scratch, name), HERE / name, WINDOW[0])
        for name, picture in FIGURES.items():
            save_small(study / "report" / "figures" / f"{name}.png", HERE / f"{picture}.png", FIGURE_WIDTH)
        for example, figures in OF_OTHERS.items():
            copy_figures(example, figures, Path(scratch))
    return 0


def copy_figures(example: str, figures: Mapping[str, str], scratch: Path) -> None:
    """Figures of another example's report, by the name that their picture has here."""
    study = scratch / example
    shutil.copytree(EXAMPLES / example, study)
    write_report(StudyFolder(study))
    for name, picture in figures.items():
        save_small(study / "report" / "figures" / f"{name}.png", HERE / f"{picture}.png", FIGURE_WIDTH)


def photograph(browser: str, page: Path, target: Path) -> None:
    """The first screen of a page as a PNG."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
             f"--user-data-dir={profile}", f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--screenshot={target}", page.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def photograph_live_page(chromium: str, study: Path, target: Path) -> None:
    """The curves on the live page of a study, the pointer on one of them."""
    with (
        tempfile.TemporaryDirectory() as profile,
        serve(study) as address,
        open_browser(chromium, Path(profile)) as browser,
    ):
        browser.set_width(*WINDOW)
        visit(browser, f"{address}studies/{study.name}")
        browser.run("document.getElementById('curves').scrollIntoView()")
        wait_for(
            browser, DRAWN, lambda number: isinstance(number, int) and number >= 32
        )  # four lines with bands, four panels
        point_at(browser, 3)
        browser.take_screenshot(target)


def save_small(source: Path, target: Path, width: int) -> None:
    """A copy of a PNG at most `width` pixels wide, with a palette of 128 colours."""
    picture = Image.open(source).convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    picture.quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
