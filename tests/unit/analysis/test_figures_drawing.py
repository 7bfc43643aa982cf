"""How figures look: labels that do not overlap, colours that can be told apart, files that are the same every time."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from analysis.drawing import style
from analysis.drawing.chart import draw_chart
from analysis.drawing.declaration import StudyFigure
from analysis.drawing.files import dark_variables, render
from analysis.drawing.layer_records import read_trial_layers, summarise_layers
from analysis.drawing.progress_axes import add_axes
from analysis.drawing.selection import MAX_DETAILED_CELLS, left_out_note, select_cells
from analysis.figures import (
    axes_views,
    draw_study_figures,
    dynamics_by_group,
    flops_by_layer,
    gradient_flow,
    noise_scale,
    training_curves,
    update_ratio,
)
from analysis.records.frames import Study, load_study
from tests.support import synthetic_model
from tests.support.studies import build_cell, write_synthetic_study
from tests.unit.analysis.figure_studies import HOSTILE, small_cells, write_hostile_study, write_small_study
from tests.unit.analysis.figure_texts import find_drawn_texts, find_overlaps

NAMES = [parameter.name for parameter in synthetic_model.parameters()]
SVG = "{http://www.w3.org/2000/svg}"


def test_names_of_rows_fit_as_wide_as_a_browser_draws_them() -> None:
    names = ["blocks.10.attention.proj.weight", "blocks.0.mlp.something_long.weight_of_it"]
    with style.styled():
        figure = style.new_figure(6, 2, "title")
        style.name_rows(figure.subplots(), names)
    root = ElementTree.fromstring(render(figure, "figure", "title", "text").svg)
    drawn = {element.text: element for element in root.iter(f"{SVG}text") if element.text in names}
    for name in names:
        width = TextPath((0, 0), name, size=7.5, prop=FontProperties(family="DejaVu Sans")).get_extents().width
        assert float(drawn[name].get("x", "")) >= width


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_small_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def figures(study: Study) -> dict[str, StudyFigure]:
    return {figure.name: figure for figure in draw_study_figures(study)}


def test_catalogue_lists_every_figure_of_the_study(figures: dict[str, StudyFigure]) -> None:
    of_study = {"samples", "architecture-width64", "training_curves", "update_ratio", "angular_update", "noise_scale",
                "axes_views", "flops_by_layer-width64", "learning_rate", "pair-pair1", "dynamics_by_group"}  # fmt: skip
    of_cells = {
        f"{name}-cell{cell}" for cell in (1, 2)
        for name in ("training_curves", "gradient_flow", "gradient_heatmap", "weight_updates", "combined_analysis", "combined_over_epochs")
    }  # fmt: skip
    of_last_steps = {
        "gradient_flow_last_step-cell1",
        "gradient_flow_last_step-cell2",
    }  # this study did not measure them
    expected = of_study | of_cells | of_last_steps
    kinds = {name.partition("-")[0] for name in expected} | {
        "grid_heatmap",
        "barriers",
        "stability",
        "critical_batch_size",
        "pairs",
    }
    assert {name for name in figures if name.partition("-")[0] in kinds} == expected, "more kinds may have been added"
    reasons = {name: figures[name].reason for name in expected if figures[name].figure is None}
    assert reasons == dict.fromkeys(of_last_steps, "no epoch's last step was measured")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("gradient_flow-cell1", [name for name in NAMES if not name.endswith(".bias")]),
        ("gradient_heatmap-cell1", NAMES),
        ("weight_updates-cell1", NAMES),
        ("combined_analysis-cell1", NAMES),
    ],
)
def test_every_tensor_has_a_row_with_its_name(figures: dict[str, StudyFigure], name: str, names: list[str]) -> None:
    figure = figures[name].figure
    assert figure is not None
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert names in rows


def test_no_figure_has_overlapping_or_cut_texts(figures: dict[str, StudyFigure]) -> None:
    for entry in figures.values():
        if entry.name.endswith("-cell2") or entry.name.startswith("gradient_flow_last_step"):
            continue
        assert entry.figure is not None
        texts = find_drawn_texts(entry.figure)
        assert not find_overlaps(texts), entry.name
        width, height = entry.figure.get_size_inches() * entry.figure.dpi
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= -1, (entry.name, text.get_text())
            assert box.y0 >= -1, (entry.name, text.get_text())
            assert box.x1 <= width + 1, (entry.name, text.get_text())
            assert box.y1 <= height + 1, (entry.name, text.get_text())


def test_overlapping_texts_would_be_found(figures: dict[str, StudyFigure]) -> None:
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    style.name_rows(axes, NAMES)
    assert find_overlaps(find_drawn_texts(figure))


def test_ten_cells_stay_readable_and_only_some_have_pictures_of_their_own(tmp_path: Path) -> None:
    labels = [(batch, rate) for batch in (32, 64) for rate in (0.01, 0.02, 0.05, 0.1, 0.2)]
    cells = [
        build_cell(f"batch {batch}, learning rate {rate}, a long label", batch_size=batch, learning_rate=rate,
                   dataset="synthetic", epochs=2, instrument_every_steps=8)
        for batch, rate in labels
    ]  # fmt: skip
    study = load_study(write_synthetic_study(tmp_path, cells=cells, seeds=(0,), num_train=320))
    shown = select_cells(study.info, study.trials)
    summary = summarise_layers(study, shown)
    for figure in (
        draw_chart(
            training_curves.chart_curves(add_axes(study, training_curves.build_training_curves(study.epochs, shown)))
        ),
        draw_chart(dynamics_by_group.chart_dynamics(add_axes(study, dynamics_by_group.build_dynamics(summary, shown)))),
        update_ratio.draw_update_ratios(update_ratio.build_update_ratios(summary, shown)),
        axes_views.draw_axes_views(axes_views.build_axes_views(summary, study.epochs, shown, {"width 64": 10})),
        noise_scale.draw_noise_scales(noise_scale.build_noise_scales(study.epochs, shown)),
    ):
        assert not find_overlaps(find_drawn_texts(figure)), figure.get_suptitle()
    assert left_out_note(study).startswith("Of 10 cells the first 6 have pictures of their own.")
    study.folder.records("layers").unlink()
    again = load_study(study.folder)
    named = [entry.name for entry in draw_study_figures(again) if entry.name.startswith("gradient_flow-cell")]
    assert len(named) == MAX_DETAILED_CELLS == 6


def test_one_seed_and_one_epoch_draw_every_figure(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, epochs=1, seeds=(0,), cells=small_cells(1)[:1])
    for entry in draw_study_figures(study):
        if entry.name.startswith("gradient_flow_last_step"):
            continue  # not measured here
        assert entry.figure is not None, (entry.name, entry.reason)
        if entry.name in ("training_curves", "learning_rate", "update_ratio", "axes_views", "dynamics_by_group"):
            assert not find_overlaps(find_drawn_texts(entry.figure)), entry.name
    assert left_out_note(study) == ""


def test_missing_records_give_reasons(tmp_path: Path) -> None:
    study = write_small_study(tmp_path, layers=False, seeds=(0,))
    study.folder.samples.unlink()
    study.folder.records("model").unlink()
    left_out = {entry.name: entry.reason for entry in draw_study_figures(study) if entry.figure is None}
    assert left_out["samples"] == "no sample images were kept"
    assert "width 64" in left_out["architecture-width64"]
    assert left_out["gradient_flow-cell1"] == "no gradients were measured"
    assert "training_curves" not in left_out


def test_drawing_leaves_matplotlib_as_it_was(study: Study) -> None:
    before = dict(mpl.rcParams)
    data = flops_by_layer.build_layer_flops(study.model, "width 64")
    render(flops_by_layer.draw_layer_flops(data), "flops", "title", "text")
    assert dict(mpl.rcParams) == before


def test_figures_do_without_pyplot() -> None:
    code = "import sys; from analysis.figures import figure_kinds; figure_kinds(search=True); sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.fixture(scope="module")
def flow(study: Study) -> gradient_flow.GradientFlow:
    cell = select_cells(study.info, study.trials)[0]
    return gradient_flow.build_gradient_flow(read_trial_layers(study, cell.representative), [1, 2])


def test_same_records_give_the_same_files(flow: gradient_flow.GradientFlow) -> None:
    first, second = (render(gradient_flow.draw_gradient_flow(flow, "a"), "name", "title", "text") for _ in range(2))
    assert first == second
    assert b"date" not in first.svg.lower()
    assert b"Matplotlib" not in first.svg + first.png
    hovers = [title.text for title in ElementTree.fromstring(first.inline_svg).iter("title")][1:]
    row = flow.values[(flow.values["epoch"] == 2) & (flow.values["layer"] == "fc.weight")].iloc[0]
    expected = f"fc.weight: mean {style.format_value(row['mean'])}, max {style.format_value(row['max'])}"
    assert len(hovers) == 2 * 41 * 2
    assert hovers.count(expected) == 2  # the bar of the mean and that of the maximum


def test_pictures_share_no_ids_and_refer_only_to_themselves(figures: dict[str, StudyFigure]) -> None:
    seen: set[str] = set()
    for name in ("training_curves-cell1", "training_curves-cell2", "noise_scale"):
        figure = figures[name].figure
        assert figure is not None
        root = ElementTree.fromstring(render(figure, name, "the title", "the text").inline_svg)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids))
        assert not seen & set(ids)
        seen |= {str(own) for own in ids}
        text = ElementTree.tostring(root, encoding="unicode")
        assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
        assert root.get("role") == "img"
        assert [root.find(tag).text for tag in ("title", "desc")] == ["the title", "the text"]  # type: ignore[union-attr]


def test_inline_pictures_take_their_colours_from_the_page(figures: dict[str, StudyFigure]) -> None:
    figure = figures["training_curves"].figure
    assert figure is not None
    picture = render(figure, "curves", "title", "text")
    colors = set(re.findall(r"#[0-9a-f]{6}", re.sub(r"var\([^)]*\)", "", picture.inline_svg)))
    assert colors == set()
    assert set(re.findall(r"var\(--c-([0-9a-f]{6}),#\1\)", picture.inline_svg)) <= {c[1:] for c in style.DARK}
    assert "--c-ffffff:#14181d;" in dark_variables()
    assert b"var(" not in picture.svg
    root = ElementTree.fromstring(picture.svg)
    assert root.tag == f"{SVG}svg"
    assert "Training curves compared" in [text.text for text in root.iter(f"{SVG}text")]
    assert "Training curves compared" not in picture.inline_svg
    assert picture.title == "Training curves compared"


def test_hostile_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    study = write_hostile_study(tmp_path, layers=False)
    texts = {}
    for entry in draw_study_figures(study):
        if entry.figure is not None:
            texts[entry.name] = _safe_texts(render(entry.figure, entry.name, entry.title, entry.caption).inline_svg)
    assert "<script>window.hacked = 1</script>" in texts["training_curves"]  # also behind an underscore
    assert "</title></style></svg>" in texts["training_curves"]
    assert "</script>" in texts["samples"]
    values = {"epoch": [1], "layer": [f"{HOSTILE}.weight"], "gradient_mean_abs": [0.1], "gradient_max_abs": [1.0]}
    figure = gradient_flow.draw_gradient_flow(gradient_flow.build_gradient_flow(pd.DataFrame(values)), HOSTILE)
    assert "<script>window.hacked = 1</script>" in _safe_texts(render(figure, "flow", HOSTILE, HOSTILE).inline_svg)


def _safe_texts(svg: str) -> str:
    """All texts of a picture that holds nothing but drawing elements."""
    root = ElementTree.fromstring(svg)
    tags = {element.tag for element in root.iter()}
    assert tags <= {"svg", "title", "desc", "defs", "g", "path", "use", "text", "tspan", "clipPath", "rect", "image"}
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]
    return " ".join(text.text or "" for text in root.iter("text"))


def test_any_text_becomes_one_printable_line() -> None:
    assert style.shown("a\nb\x00c\ud800d") == "a b c d"
    assert style.shown("x" * 99, 10) == "x" * 9 + "…"
    assert len(style.shown(HOSTILE)) <= 48


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.15, "0.15"),
        (1e-4, "10⁻⁴"),
        (2.5e-7, "2.5·10⁻⁷"),
        (19_525, "19525"),
        (3e15, "3·10¹⁵"),
        (-0.5, "−0.5"),
    ],
)
def test_numbers_on_axes(value: float, text: str) -> None:
    assert style.format_value(value) == text


# Severe colour blindness as linear maps of linear RGB (Machado, Oliveira, Fernandes 2009).
_VISIONS = {
    "usual": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]),
}  # fmt: skip


@pytest.mark.parametrize("vision", _VISIONS)
@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_apart(vision: str, dark: bool) -> None:
    cells = [str(style.cell_style(index)["color"]) for index in range(7)]
    for palette in (
        cells,
        list(style.group_colors(("stem", "layer1", "layer2", "layer3", "layer4", "fc")).values()),
    ):
        seen = [_lab(_VISIONS[vision] @ _linear(style.DARK[color] if dark else color)) for color in palette]
        distances = [float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)]
        assert min(distances) > 12  # 2.3 is just noticeable side by side


def test_seventy_cells_differ_in_colour_marker_or_dashes() -> None:
    styles = {str(style.cell_style(index)) for index in range(70)}
    assert len(styles) == 70


def _linear(color: str) -> npt.NDArray[np.float64]:
    value = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _lab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(linear, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
