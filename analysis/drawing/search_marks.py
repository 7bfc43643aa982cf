"""What the figures of a search share: how a trial's outcome is marked, and how a searched field is laid on an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.drawing.style import MUTED, format_value, shown, use_log_axis, use_percent_axis, use_plain_axis
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
ENQUEUED: dict[str, Any] = {"color": "#3c3c3e", "marker": "*", "markersize": 14, "markerfacecolor": "none"}
BEST = "#1a9e77"
TRIED_FIRST = "cell of the study, tried first"


@dataclass(frozen=True)
class AxisScale:
    """How the values of one searched field lie on an axis: `places` are their positions, `ticks` names some of them."""

    title: str
    kind: str  # log, linear or names
    places: npt.NDArray[np.float64]
    ticks: tuple[tuple[float, str], ...] = ()


def build_scale(search: Search, name: str, trials: pd.DataFrame) -> AxisScale:
    """The positions of a field in these trials; numbers keep their value, other values are numbered."""
    values = trials[search.parameter_columns[name]]
    title, spread = name.replace("_", " "), search.description.space[name].scale
    numeric = values.map(lambda v: isinstance(v, (int, float, np.number)) and not isinstance(v, (bool, np.bool_)))
    if len(values) and bool(numeric.all()):
        places = values.to_numpy(dtype=float)
        chosen = sorted({float(place) for place in places}) if spread == "choices" else []
        is_log = spread == "log" or (bool(chosen) and min(chosen) > 0 and max(chosen) >= 4 * min(chosen))
        ticks = tuple((place, format_value(place)) for place in chosen) if len(chosen) <= 8 else ()
        return AxisScale(title, "log" if is_log else "linear", places, ticks)
    names = sorted({str(value) for value in values})
    places = np.array([names.index(str(value)) for value in values], dtype=float)
    return AxisScale(title, "names", places, tuple((float(i), shown(text, 14)) for i, text in enumerate(names)))


def use_scale(axes: Axes, which: str, scale: AxisScale) -> None:
    """Lay axis `which` out for the field; call it when everything is drawn."""
    if scale.kind == "log":
        use_log_axis(axes, which)
    elif scale.kind == "linear":
        use_plain_axis(axes, which)
    if scale.ticks:
        getattr(axes, f"set_{which}ticks")([place for place, _ in scale.ticks], [text for _, text in scale.ticks])
        getattr(axes, f"{which}axis").set_tick_params(which="minor", length=0)
    getattr(axes, f"set_{which}label")(scale.title)


def use_objective_axis(axes: Axes, objective: Objective) -> None:
    """A y axis of an objective: accuracies in percent."""
    if objective.kind == "accuracy":
        use_percent_axis(axes)
        axes.set_ylabel(f"{objective.title} (%)")
    else:
        use_plain_axis(axes, "y")
        axes.set_ylabel(objective.title)


def status_style(status: str) -> dict[str, Any]:
    """Colour and marker of an outcome."""
    return {"linestyle": "none", **_STYLES.get(status, {"color": MUTED, "marker": ".", "markersize": 5.0})}


def status_handles(statuses: Sequence[str], *, enqueued: bool) -> list[Line2D]:
    """Legend entries for the outcomes that occur, and for cells of the study."""
    ordered = [name for name in _STYLES if name in statuses] + sorted(set(statuses) - set(_STYLES))
    handles = [Line2D([], [], label=shown(name), **status_style(name)) for name in ordered]
    first = [Line2D([], [], linestyle="none", label=TRIED_FIRST, **ENQUEUED)] if enqueued else []
    return handles + first
