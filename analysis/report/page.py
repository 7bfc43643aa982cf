"""The report of a study: the only writer of report/index.html, report/tables and report/figures.

Everything on it follows from the records in the study folder; it needs neither Ray nor torch nor the data. The page is one
file without any reference to another: styles, script, pictures and the tables' CSV are in it, and a content security
policy keeps a browser from running or fetching anything else.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from analysis.design.confounds import Confounds, find_confounds
from analysis.design.grid_text import write_grid
from analysis.drawing.declaration import StudyFigure
from analysis.drawing.files import Picture, dark_variables, render
from analysis.drawing.selection import left_out_note
from analysis.figures import draw_study_figures, is_figure_file
from analysis.records.frames import Study, count_training_images
from analysis.records.study_folder import StudyFolder, StudyFolderError, check_links
from analysis.report.content import build_environment, build_sections, build_verdict
from analysis.results.formats import write_tables
from analysis.results.result_table import ResultTable
from analysis.tables import build_tables
from trainable.config import TrialConfig
from trainable.files import write_atomically

# Control characters, and those that turn the direction of the text around them: shown as what they are, not obeyed.
_INVISIBLE = dict.fromkeys(
    [
        *range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    ],
    "\ufffd",
)  # fmt: skip


def write_report(folder: StudyFolder, *, claims_file: Path | None = None) -> Path:
    """Rebuild every table, figure and the page from the records; the path of the page.

    `claims_file` holds the published claims to check; None: those that the study's grid names. Errors: StudyFolderError where the
    folder is missing, damaged, foreign or too new, or where links lead out of it; ClaimsError.
    """
    study = read_checked(folder, claims_file)
    check_links(StudyFolder(folder.path.resolve()))  # whoever names a link to a study means the study
    tables = build_tables(study)
    write_tables(tables, folder)
    figures = write_figures(study)
    page = render_page(study, tables, figures)
    path = folder.report / "index.html"
    write_atomically(path, page.encode())
    return path


def read_checked(folder: StudyFolder, claims_file: Path | None = None) -> Study:
    """The study, its cells' configurations and its texts checked. Errors: StudyFolderError."""
    study = Study(folder, folder.read_study(), claims_file)
    try:
        json.dumps(dataclasses.asdict(study.info), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StudyFolderError(f"{folder.study_json}: holds text that is not valid Unicode ({error.reason})") from error
    for cell in study.info.cells:
        try:
            TrialConfig.from_dict(cell.config)
        except (TypeError, ValueError) as error:
            raise StudyFolderError(f"{folder.study_json}: cell {cell.label!r}: {error}") from error
    return study


def write_figures(study: Study) -> list[tuple[StudyFigure, Picture | None]]:
    """Draw every figure into report/figures as PNG and SVG; files of figures that no longer exist are removed."""
    drawn: list[tuple[StudyFigure, Picture | None]] = []
    written = set()
    for figure in draw_study_figures(study):
        picture = render_figure(figure)
        if picture is not None:
            for suffix, content in (("png", picture.png), ("svg", picture.svg)):
                write_atomically(study.folder.figures / f"{figure.name}.{suffix}", content)
                written.add(f"{figure.name}.{suffix}")
        drawn.append((figure, picture))
    for path in study.folder.figures.glob("*.*"):
        if path.name not in written and is_figure_file(path.name):
            path.unlink()
    return drawn


def find_study_confounds(study: Study) -> tuple[Confounds, str]:
    """What moves together in the study's grid, and a grid file that would tell it apart, empty where there is none."""
    info = study.info
    confounds = find_confounds(info.cells, info.factors, count_training_images(study))
    return confounds, write_grid(confounds, info) if confounds.extra_cells else ""


def render_figure(figure: StudyFigure) -> Picture | None:
    """The figure as bytes, None where there was nothing to draw."""
    if figure.figure is None:
        return None
    title = f"{figure.title}, {figure.cell}" if figure.cell else figure.title
    return render(figure.figure, figure.name, title, figure.caption)


def render_page(
    study: Study,
    tables: dict[str, ResultTable],
    figures: Sequence[tuple[StudyFigure, Picture | None]],
) -> str:
    """The text of the page."""
    info = study.info
    confounds, grid = find_study_confounds(study)
    script = read_asset("report.js")
    statuses = study.trials["status"].value_counts()
    page = (
        build_templates("analysis.report")
        .get_template("report.html")
        .render(
            info=info,
            styles=Markup(read_styles()),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            statuses=[(str(status), int(number)) for status, number in statuses.items()],
            searched=[(str(s), int(n)) for s, n in study.search_trials["status"].value_counts().items()],
            num_asked=len(study.trials) if info.stopping else len(info.cells) * len(info.seeds),
            verdict=build_verdict(study, tables, figures, confounds),
            sections=build_sections(study, tables, figures, confounds, grid, left_out_note(study)),
            environment=build_environment(study),
        )
    )
    return show_invisible(page)


def build_templates(*packages: str) -> jinja2.Environment:
    """The templates in the folders `templates` of these packages, in which every text is escaped that is not `trusted`."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals["trusted"] = Markup
    return environment


def read_asset(name: str) -> str:
    """One of the report's own files."""
    return resources.files("analysis.report.templates").joinpath(name).read_text(encoding="utf-8")


def read_styles() -> str:
    """The style sheet, with the colours of figures on a dark screen."""
    return read_asset("report.css").replace("/* figure colours */", dark_variables())


def show_invisible(page: str) -> str:
    """`page` with characters that do not show, or turn the direction of the text, replaced by one that does."""
    return page.translate(_INVISIBLE)
