"""Every figure of a study, in reading order: which records it needs, what it is called and what a reader is told.

Figures are drawn one by one as they are asked for. A figure with nothing to draw is listed with the reason. More cells than
a picture can show are left to the tables: the first ones of the study are drawn, fixed before any result was known.
Pictures of single cells are of fewer still, from the first completed seed of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.drawing.declaration import FigurePlan, StudyFigure
from analysis.drawing.layer_records import LayerSummary, read_trial_layers, summarise_layers
from analysis.drawing.selection import ShownCell, select_cells
from analysis.drawing.style import NothingToDraw
from analysis.figures import (
    angular_update,
    architecture,
    axes_views,
    combined_analysis,
    flops_by_layer,
    gradient_flow,
    gradient_heatmap,
    learning_rate,
    noise_scale,
    samples,
    training_curves,
    update_ratio,
    weight_updates,
)
from analysis.records.frames import Study

MAX_CELLS = 20  # in a figure that compares cells
MAX_DETAILED_CELLS = 6  # with pictures of their own
MAX_WIDTHS = 3


def draw_study_figures(study: Study) -> Iterator[StudyFigure]:
    """Every figure of the study, drawn when it is its turn."""
    for plan in _plan_figures(_Records(study)):
        figure, reason = None, ""
        try:
            figure = plan.draw()
        except NothingToDraw as error:
            reason = str(error)
        yield StudyFigure(plan.name, plan.section, plan.title, plan.caption, plan.cell, figure, reason)


def left_out_note(study: Study) -> str:
    """What to tell a reader about cells that are not in every figure; empty where all are."""
    count = len(select_cells(study.info, study.trials))
    if count <= MAX_DETAILED_CELLS:
        return ""
    compared = f"Figures that compare cells show the first {MAX_CELLS}. " if count > MAX_CELLS else ""
    return f"Of {count} cells the first {MAX_DETAILED_CELLS} have pictures of their own. {compared}The tables hold all of them."


class _Records:
    """What several figures share, read once when first asked for."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.cells = select_cells(study.info, study.trials)[:MAX_CELLS]

    @cached_property
    def widths(self) -> list[int]:
        configured = {int(cell.config["width"]) for cell in self.study.info.cells}
        return sorted(configured | set(self.study.model["width"]))[:MAX_WIDTHS]

    @cached_property
    def layers(self) -> LayerSummary:
        return summarise_layers(self.study, self.cells)

    @cached_property
    def curves(self) -> training_curves.TrainingCurves:
        return training_curves.build_training_curves(self.study.epochs, self.cells)

    @cached_property
    def flops_per_image(self) -> dict[int, int]:
        """Training FLOPs of one image by width."""
        sums = self.study.model.groupby("width")["flops_two_per_mac_training"].sum(min_count=1).dropna()
        return {int(str(width)): int(flops) for width, flops in sums.items()}

    def representative_layers(self, cell: ShownCell) -> pd.DataFrame:
        """The layer records of the cell's first completed seed, kept only until another cell is asked for."""
        if getattr(self, "_kept", (None, None))[0] != cell.representative:
            self._kept = (cell.representative, read_trial_layers(self.study, cell.representative))
        return self._kept[1]


def _plan_figures(records: _Records) -> Iterator[FigurePlan]:
    if records.study.info.search is not None:
        from analysis.figures.search.catalogue import plan_search_figures  # Optuna takes a second to import
        from analysis.search.history import load_search

        yield from plan_search_figures(load_search(records.study))
    yield FigurePlan(
        "samples", "data", "Sample images", "Images of the data set before augmentation, one row per class.",
        lambda: _draw_samples(records),
    )  # fmt: skip
    for width in records.widths:
        yield FigurePlan(
            f"architecture-width{width}", "data", f"Architecture, width {width}",
            "Boxes are modules, in the order of execution; a number on a frame counts the parameters of the block, the line "
            "at its right is its skip connection.",
            partial(_draw_architecture, records, width),
        )  # fmt: skip
    yield from _plan_curves(records)
    yield from _plan_dynamics(records)
    for width in records.widths:
        yield FigurePlan(
            f"flops_by_layer-width{width}", "flops", f"FLOPs by layer, width {width}",
            "Forward pass of one image in the worksheet's convention: 1 per multiply-accumulate, 2 per batch-norm element, "
            "1 per bias of the linear layer, 2 per output of the average pool.",
            partial(_draw_flops, records, width),
        )  # fmt: skip
    yield FigurePlan(
        "learning_rate", "schedule", "Learning rate", "The rate after the scheduler's step at the end of each epoch.",
        lambda: learning_rate.draw_schedule(learning_rate.build_schedule(records.study.epochs, records.cells)),
    )  # fmt: skip


def _plan_curves(records: _Records) -> Iterator[FigurePlan]:
    spread = "Lines are means over seeds, bands one standard deviation; a single seed has no band."
    yield FigurePlan(
        "training_curves", "curves", "Training curves compared", spread,
        lambda: training_curves.draw_compared_curves(records.curves),
    )  # fmt: skip
    for cell in _detailed(records):
        yield FigurePlan(
            f"training_curves-cell{cell.index + 1}", "curves", "Training curves", spread,
            partial(_draw_cell_curves, records, cell.index), cell.label,
        )  # fmt: skip


def _plan_dynamics(records: _Records) -> Iterator[FigurePlan]:
    cells, study = records.cells, records.study
    yield FigurePlan(
        "update_ratio", "dynamics", "Update-to-weight ratio",
        "Length of one step's change over the length of the weights, by layer group: mean over tensors, measured steps and "
        "seeds; bands are one standard deviation over seeds.",
        lambda: update_ratio.draw_update_ratios(update_ratio.build_update_ratios(records.layers, cells)),
    )  # fmt: skip
    yield FigurePlan(
        "angular_update", "dynamics", "Angular update",
        "Angle between a convolution's weights before and after a step, beside the equilibrium sqrt(2·lr·wd / (1 + momentum)) "
        "for the learning rate of the step (arXiv 2006.08419). Mean over measured steps and seeds.",
        lambda: angular_update.draw_angular_updates(
            angular_update.build_angular_updates(records.layers, study.steps, cells)
        ),
    )  # fmt: skip
    yield FigurePlan(
        "noise_scale", "dynamics", "Gradient noise scale",
        "tr(S) / |G|² (McCandlish et al. 2018): the batch size above which a larger batch buys little. Lines are the ratio of "
        "the means over seeds, dots are single trials.",
        lambda: noise_scale.draw_noise_scales(noise_scale.build_noise_scales(study.epochs, cells)),
    )  # fmt: skip
    yield FigurePlan(
        "axes_views", "dynamics", "Gradients and updates against five axes",
        "The same curves against steps, epochs, images seen, FLOP spent and the sum of learning rates: means over all tensors "
        "and seeds.",
        lambda: axes_views.draw_axes_views(
            axes_views.build_axes_views(records.layers, study.epochs, cells, records.flops_per_image)
        ),
    )  # fmt: skip
    for cell in _detailed(records):
        yield from _plan_cell_dynamics(records, cell)


def _plan_cell_dynamics(records: _Records, cell: ShownCell) -> Iterator[FigurePlan]:
    number, about = cell.index + 1, f"{cell.label}, seed {cell.representative_seed}"
    yield FigurePlan(
        f"gradient_flow-cell{number}", "dynamics", "Gradient flow by layer",
        f"Seed {cell.representative_seed}: mean |g| over the epoch's measured steps and the largest |g| of them, without "
        "biases.",
        lambda: gradient_flow.draw_gradient_flow(
            gradient_flow.build_gradient_flow(records.representative_layers(cell)), f"Gradient flow, {about}"
        ), cell.label,
    )  # fmt: skip
    yield FigurePlan(
        f"gradient_heatmap-cell{number}", "dynamics", "Gradient flow over time",
        "Mean |g| of every tensor and epoch, over measured steps and seeds; all cells share one colour scale.",
        lambda: gradient_heatmap.draw_gradient_heatmap(
            gradient_heatmap.build_gradient_heatmap(records.layers, cell.index), f"Mean gradient, {cell.label}"
        ), cell.label,
    )  # fmt: skip
    yield FigurePlan(
        f"weight_updates-cell{number}", "dynamics", "Weight updates",
        f"Seed {cell.representative_seed}: change is mean |w − w₀|, the distance from the initial weights, as published.",
        lambda: weight_updates.draw_weight_updates(
            weight_updates.build_weight_updates(records.representative_layers(cell)), f"Weight updates, {about}"
        ), cell.label,
    )  # fmt: skip
    yield FigurePlan(
        f"combined_analysis-cell{number}", "dynamics", "Combined analysis",
        f"Seed {cell.representative_seed}: mean gradient and mean weight change of every tensor at the last epoch.",
        lambda: combined_analysis.draw_combined_analysis(
            combined_analysis.build_combined_analysis(records.representative_layers(cell)), f"Combined analysis, {about}"
        ), cell.label,
    )  # fmt: skip


def _detailed(records: _Records) -> list[ShownCell]:
    return records.cells[:MAX_DETAILED_CELLS]


def _draw_samples(records: _Records) -> Figure:
    kept = records.study.folder.read_samples()
    if kept is None:
        raise NothingToDraw("no sample images were kept")
    return samples.draw_sample_grid(samples.build_sample_grid(*kept))


def _draw_architecture(records: _Records, width: int) -> Figure:
    return architecture.draw_architecture(architecture.build_architecture(records.study.model, width))


def _draw_flops(records: _Records, width: int) -> Figure:
    return flops_by_layer.draw_layer_flops(flops_by_layer.build_layer_flops(records.study.model, width))


def _draw_cell_curves(records: _Records, index: int) -> Figure:
    if index not in dict(records.curves.labels):
        raise NothingToDraw("no epoch of this cell has been recorded")
    return training_curves.draw_cell_curves(records.curves, index)
