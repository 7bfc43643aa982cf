"""How every figure looks: colours, sizes and axes, without touching matplotlib's global state.

Figures are drawn inside `styled()` on matplotlib.figure.Figure objects, never through pyplot. Texts may come from a study
folder that someone else wrote: nothing is parsed as mathematics, and `shown` makes any text safe to draw. The colours are
distinguishable with colour-blind eyes (checked in simulated protan, deutan and tritan vision; cells also differ in marker
and dashes) and stand in `DARK` with what the report page replaces them by on a dark screen. Knows nothing of records.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from analysis.records.phases import GROUPS, order_groups

PAPER, INK, MUTED, GRID, PANEL = "#ffffff", "#1b2128", "#59636e", "#d9dee4", "#fbfcfd"
_CELLS = ("#0072b2", "#c84e00", "#1a9e77", "#a8508f", "#e0a100", "#56b0e6", "#3c3c3e")
_MARKERS = "os^DvP*<>p"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)))
_GROUPS = ("#2b1055", "#2f6fe0", "#155f5f", "#2fa36b", "#a48b13", "#8f1d2c")
_SHADE = 0.8  # of the colour map, whose yellow could not be read on white
_DEPTHS = (0.08, 0.92)  # of the colour map, whose ends are too dark or too light on one of the two pages
LIGHT_BAR, DARK_BAR = "#9ecae6", "#08519c"

# What a dark page shows instead. A colour that has no entry is the same on both.
DARK = {
    PAPER: "#14181d", INK: "#e8ecf1", MUTED: "#a3adb8", GRID: "#343c46", PANEL: "#191e24",
    "#0072b2": "#4ea6e0", "#c84e00": "#ff7a2e", "#1a9e77": "#2fc79b", "#a8508f": "#d77fb0", "#e0a100": "#ffd166",
    "#56b0e6": "#9fd8fb", "#3c3c3e": "#f2f2f2",
    "#2b1055": "#dcb8ff", "#2f6fe0": "#6f8dff", "#155f5f": "#9be8f5", "#2fa36b": "#3fb98a", "#a48b13": "#f0e04a",
    "#8f1d2c": "#ff6a4d",
    LIGHT_BAR: "#2f5f86", DARK_BAR: "#8cc4f2",
}  # fmt: skip

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"], "font.size": 9.0, "text.color": INK, "text.parse_math": False,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.facecolor": PANEL, "axes.titlesize": 10.0,
    "axes.titlelocation": "left", "axes.titley": 1.0,  # else every drawing looks for a place above ticks that are not there
    "axes.titlecolor": INK, "axes.linewidth": 0.7, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6,
    "axes.formatter.use_mathtext": False, "axes.unicode_minus": True,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0, "ytick.labelsize": 8.0, "xtick.major.size": 3.0, "ytick.major.size": 3.0,
    "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.6, "lines.markersize": 4.5,
    "figure.facecolor": PAPER, "savefig.facecolor": "auto", "figure.titlesize": 11.5, "figure.titleweight": "bold",
    "svg.fonttype": "none", "figure.dpi": 100.0,
    "text.hinting": "none",  # hinted, texts are measured 5 % narrower than a browser draws them
}  # fmt: skip

_STEPS = [1, 2, 5, 10]  # ticks at 5, 10, 15, not at 3, 6, 9
HOVER_PREFIX, TITLE_GID = "hover:", "figure-title"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class NothingToDraw(Exception):
    """The records hold nothing for a figure; the message is the reason a reader is told."""


@contextmanager
def styled() -> Iterator[None]:
    """The project's style for figures made and saved inside; the settings from before are back afterwards.

    Starts from matplotlib's defaults, so that a user's own settings do not change the figures. A figure is made of some
    hundred thousand small objects: garbage is looked for less often than usual, which takes a sixth off the time.
    """
    usual = gc.get_threshold()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        gc.set_threshold(50_000, 20, 20)
        try:
            yield
        finally:
            gc.set_threshold(*usual)


def new_figure(width_in: float, height_in: float, title: str) -> Figure:
    """An empty figure of this size in inches with a title at its top left."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.suptitle(shown(title, 110), x=0.01, ha="left").set_gid(TITLE_GID)
    return figure


def shown(text: object, limit: int = 48) -> str:
    """`text` as one printable line of at most `limit` characters, as figures show names from a study folder."""
    line = _UNPRINTABLE.sub(" ", str(text)).strip()
    line = line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
    return f"\N{ZERO WIDTH SPACE}{line}" if line.startswith("_") else line  # legends drop names that start with _


def set_hover(artist: Artist, text: str = "", cell: int | None = None) -> None:
    """Have the picture on the page show `text` under the pointer, and say which cell of several it is about."""
    artist.set_in_layout(False)  # inside its axes anyway; measuring hundreds of bars makes layout slow
    artist.set_gid(f"{HOVER_PREFIX}{'' if cell is None else cell}:{shown(text, 160)}")


def cell_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the study's cell number `index`, different for at least 70 cells."""
    return {
        "color": _CELLS[index % len(_CELLS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index // len(_CELLS) % len(_DASHES)],
    }


def group_colors(groups: Iterable[object]) -> dict[str, str]:
    """The colour of each layer group: those of residual networks have their own, others follow the network's depth."""
    names = order_groups(map(str, groups))
    if set(names) <= set(GROUPS):
        return dict(zip(GROUPS, _GROUPS, strict=True))
    depths = np.linspace(*_DEPTHS, len(names))
    colors = _SHADE * mpl.colormaps["turbo"](depths)[:, :3]
    return {name: to_hex(color) for name, color in zip(names, colors, strict=True)}


def marker_every(num_points: int) -> int:
    """Every how many points a line has a marker: at most about eight along it."""
    return max(1, math.ceil(num_points / 8))


def add_legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """A legend of the whole figure, below it."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def new_cell_figure(
    width_in: float, height_in: float, title: str, labels: Sequence[tuple[int, str]], more: Sequence[Artist] = ()
) -> Figure:
    """An empty figure with a legend of cells, given as (index, label), and `more` below it; each line of it adds to the height."""
    columns = min(3, len(labels))
    figure = new_figure(width_in, height_in + 0.2 * math.ceil(len(labels) / columns), title)
    handles = [Line2D([], [], label=shown(label), **cell_style(index)) for index, label in labels]
    add_legend(figure, [*handles, *more], columns)
    return figure


def plot(axes: Axes, x: ArrayLike, y: ArrayLike, hover: str, *, cell: int | None = None, **look: Any) -> None:
    """A line or a mark, which tells `hover` under the pointer; the page has a button that hides all of a `cell`."""
    (line,) = axes.plot(x, y, **look)
    set_hover(line, hover, cell)


def plot_cell(axes: Axes, rows: pd.DataFrame, x: str, y: str, cell: int, hover: str) -> None:
    """The line of a cell in the colour, marker and dashes of its index; nothing without rows."""
    if len(rows):
        plot(axes, rows[x], rows[y], hover, markevery=marker_every(len(rows)), cell=cell, **cell_style(cell))


def group_handles(groups: Iterable[str]) -> list[Patch]:
    """Legend entries for the layer groups that occur, in the order of the network."""
    names = list(map(str, groups))
    colors = group_colors(names)
    return [Patch(color=colors[name], label=shown(name, 24)) for name in order_groups(names)]


def format_value(value: float) -> str:
    """A number as axes show it: plain where that is short, else a power of ten."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -3 <= exponent < 6:
        return f"{value:.7g}".replace("-", "−")
    return format_power(value)


def format_power(value: float) -> str:
    """A positive or negative number as mantissa and power of ten, like 2·10⁻³; 1 to 9999 stay plain."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if 0 <= exponent < 4:
        return f"{value:.4g}".replace("-", "−")
    mantissa = f"{value / 10**exponent:.3g}".replace("-", "−")
    power = "10" + str(exponent).translate(_SUPERSCRIPTS)
    return power if mantissa == "1" else f"{mantissa}·{power}"


def use_log_axis(axes: Axes, which: str) -> None:
    """Make axis `which` ("x" or "y") logarithmic, with labels at powers of ten, or also between where there are few.

    Call it when everything is drawn and the limits are set.
    """
    getattr(axes, f"set_{which}scale")("log")
    low, high = getattr(axes, f"get_{which}lim")()
    decades = math.log10(high / low) if 0 < low < high else 0
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_power(value)))
    axis.set_minor_formatter(NullFormatter())


def use_plain_axis(axes: Axes, which: str, *, bins: int = 6) -> None:
    """Few ticks with short labels."""
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(nbins=bins, steps=_STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))


def use_epoch_axis(axes: Axes) -> None:
    """An x axis of whole epochs that is readable with a single one, too."""
    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim((low + high) / 2 - 0.5, (low + high) / 2 + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=_STEPS, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))


def use_percent_axis(axes: Axes, which: str = "y") -> None:
    """An axis of fractions, labelled in percent."""
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(nbins=7, steps=_STEPS))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.5g}"))


def draw_rows(
    axes: Axes, values: Sequence[float], colors: Sequence[str], hovers: Sequence[str], *, start: float = 0.0,
    height: float = 0.72,
) -> None:  # fmt: skip
    """A horizontal bar from `start` for each value, row 0 first; values that are not finite or below it have none."""
    rows = [row for row, value in enumerate(values) if math.isfinite(value) and value > start]
    widths = [values[row] - start for row in rows]
    bars = axes.barh(rows, widths, left=start, height=height, color=[colors[row] for row in rows])
    for row, bar in zip(rows, bars, strict=True):
        set_hover(bar, hovers[row])


def name_rows(axes: Axes, names: Sequence[str], *, labels: bool = True) -> None:
    """Rows 0..n-1 from the top, one per name, each with its label where `labels`."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    if labels:
        axes.set_yticks(range(len(names)), [shown(name) for name in names])
    else:
        axes.set_yticks([])
    axes.tick_params(axis="y", length=0, labelsize=7.5, pad=2)
    axes.grid(False, axis="y")
