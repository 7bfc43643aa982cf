"""What the figures of a search share: how a trial's outcome is marked, and how a searched field is laid on an axis.

They are not Optuna's own (optuna.visualization), which leave out the trials that were pruned or diverged and the cells of the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.drawing import style
from analysis.records.factors import field_title
from analysis.search.history import Search
from analysis.search.objectives import Objective

# Outcome: colour, marker, size. Not by colour alone.
_STYLES: dict[str, dict[str, Any]] = {
    "completed": {"color": "#0072b2", "marker": "o", "markersize": 5.5},
    "pruned": {"color": "#e0a100", "marker": "v", "markersize": 4.5},
    "diverged": {"color": "#c84e00", "marker": "x", "markersize": 5.5},
    "failed": {"color": "#a8508f", "marker": "X", "markersize": 5.5},
    "running": {"color": "#1a9e77", "marker": "D", "markersize": 4.0},
}
ENQUEUED: dict[str, Any] = {
    "linestyle": "none", "color": "#3c3c3e", "marker": "*", "markersize": 14, "markerfacecolor": "none",
}  # fmt: skip
BEST = "#1a9e77"
TRIED_FIRST = "cell of the study, tried first"


@dataclass(frozen=True)
class AxisScale:
    """How the values of one searched field lie on an axis: `places` are their positions, `ticks` names some of them."""

    title: str
    kind: str  # log, linear or names
    places: npt.NDArray[np.float64]
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class ScaledTrials:
    """Trials on the axes of all searched fields: `points` has columns number, value, status, enqueued; `scales` their places."""

    objective: Objective
    points: pd.DataFrame
    scales: tuple[AxisScale, ...]


def scale_trials(search: Search, points: pd.DataFrame) -> ScaledTrials:
    """These of the search's `points`."""
    scales = tuple(build_scale(search, name, points) for name in search.description.space)
    return ScaledTrials(search.objectives[0], points.reset_index(drop=True), scales)


def build_scale(search: Search, name: str, trials: pd.DataFrame) -> AxisScale:
    """The positions of a field in these trials; numbers keep their value, other values are numbered."""
    values = trials[search.parameter_columns[name]]
    title, spread = field_title(name), search.description.space[name].scale
    numeric = values.map(lambda v: isinstance(v, (int, float, np.number)) and not isinstance(v, (bool, np.bool_)))
    if len(values) and bool(numeric.all()):
        places = values.to_numpy(dtype=float)
        chosen = sorted({float(place) for place in places}) if spread == "choices" else []
        is_log = spread == "log" or (bool(chosen) and min(chosen) > 0 and max(chosen) >= 4 * min(chosen))
        ticks = tuple((place, style.format_value(place)) for place in chosen) if len(chosen) <= 8 else ()
        return AxisScale(title, "log" if is_log else "linear", places, ticks)
    codes, names = pd.factorize(values.astype(str), sort=True)
    ticks = tuple((float(place), style.shown(text, 14)) for place, text in enumerate(names))
    return AxisScale(title, "names", codes.astype(float), ticks)


def use_scale(axes: Axes, scale: AxisScale) -> None:
    """Lay the x axis out for the field; call it when everything is drawn."""
    if scale.kind == "log":
        style.use_log_axis(axes, "x")
    elif scale.kind == "linear":
        style.use_plain_axis(axes, "x")
    if scale.ticks:
        axes.set_xticks([place for place, _ in scale.ticks], [text for _, text in scale.ticks])
        axes.xaxis.set_tick_params(which="minor", length=0)
    axes.set_xlabel(scale.title)


def use_objective_axis(axes: Axes, objective: Objective, which: str = "y", values: pd.Series | None = None) -> None:
    """An axis of an objective: accuracies in percent; logarithmic where positive `values` are given that lie far apart."""
    if objective.kind == "accuracy":
        style.use_percent_axis(axes, which)
    elif values is not None and values.min() > 0 and values.max() > 20 * values.min():
        style.use_log_axis(axes, which)
    else:
        style.use_plain_axis(axes, which)
    getattr(axes, f"set_{which}label")(title_with_unit(objective))


def title_with_unit(objective: Objective) -> str:
    """The objective as axes name it."""
    return f"{objective.title} (%)" if objective.kind == "accuracy" else objective.title


def status_style(status: str) -> dict[str, Any]:
    """Colour and marker of an outcome."""
    return {"linestyle": "none", **_STYLES.get(status, {"color": style.MUTED, "marker": ".", "markersize": 5.0})}


def draw_trials(axes: Axes, points: pd.DataFrame, places: npt.ArrayLike, hovers: Sequence[str]) -> None:
    """A mark per trial at its place and value, hollow where it ended early; at the bottom where it has no value."""
    for row, place, hover in zip(points.to_dict("records"), np.asarray(places), hovers, strict=True):
        look = status_style(str(row["status"]))
        if row["status"] != "completed":
            look["markerfacecolor"] = "none"
        if not np.isfinite(row["value"]):
            style.plot(axes, place, 0.02, hover, transform=axes.get_xaxis_transform(), **look)
            continue
        style.plot(axes, place, row["value"], f"{hover}: {style.format_value(float(row['value']))}", **look)
        if row["enqueued"]:
            axes.plot(place, row["value"], **ENQUEUED)


def add_status_legend(figure: Figure, points: pd.DataFrame, more: Sequence[Artist] = ()) -> None:
    """A legend of the outcomes that occur, of the cells of the study where some are among them, and of `more`."""
    statuses = set(points["status"])
    ordered = [name for name in _STYLES if name in statuses] + sorted(statuses - set(_STYLES))
    handles = [Line2D([], [], label=style.shown(name), **status_style(name)) for name in ordered]
    first = [Line2D([], [], label=TRIED_FIRST, **ENQUEUED)] if points["enqueued"].any() else []
    style.add_legend(figure, [*handles, *first, *more], len(handles) + len(first) + len(more))
