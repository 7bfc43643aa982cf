"""A drawn figure as files: PNG, SVG, and SVG for the report page.

The same figure gives the same bytes: no dates, no versions, ids from its name. matplotlib's SVG is parsed and rewritten,
because it repeats ids between pictures, carries a style rule for every element of a page, and has no place for hover
texts. On the page colours become CSS variables, so that one picture serves light and dark screens. Knows nothing of
records.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis.drawing.style import DARK, HOVER_PREFIX, TITLE_GID, styled

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOR = re.compile(r"#[0-9a-f]{6}\b")
_URL = re.compile(r"url\(#([^)]*)\)")
_FONT = re.compile(r"font-family: 'DejaVu Sans'(; )?")
# Laid out in DejaVu Sans, which few machines have: texts in narrower fonts always fit.
_ROOT_STYLE = (
    "stroke-linejoin:round;stroke-linecap:butt;font-family:Arial,'Liberation Sans',Helvetica,Roboto,sans-serif"
)


@dataclass(frozen=True)
class Picture:
    """A figure as bytes: `png`, `svg` for a file, `inline_svg` for a page, its title and its size in CSS pixels.

    The inline picture has no title in it: the page writes it as text.
    """

    png: bytes
    svg: bytes
    inline_svg: str
    title: str
    width: int
    height: int


def render(figure: Figure, name: str, title: str, description: str) -> Picture:
    """Draw `figure` once per format; `name` makes ids unique on a page, `title` and `description` are read aloud."""
    with styled():
        mpl.rcParams["svg.hashsalt"] = name
        png, svg = io.BytesIO(), io.BytesIO()
        # Not through savefig, which lays out and draws everything once more for each file.
        pixels: Any = FigureCanvasAgg(figure)
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")  # laid out now, so both formats show the same and only one pays for it
        pixels.print_png(png, metadata={"Software": None})
        lines: Any = FigureCanvasSVG(figure)
        lines.print_svg(svg, metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    root = _tidy(ElementTree.fromstring(svg.getvalue()), name, title, description)
    root.set("width", str(width))
    root.set("height", str(height))
    standalone = _standalone(root)
    return Picture(png.getvalue(), standalone, _themed(root), figure.get_suptitle(), width, height)


def _tidy(root: ElementTree.Element, name: str, title: str, description: str) -> ElementTree.Element:
    """Plain tags, ids of this picture alone and only where used, hover texts, short numbers, a name for readers."""
    used = {match for element in root.iter() for value in element.attrib.values() for match in _URL.findall(value)}
    used |= {value[1:] for e in root.iter() if (value := e.get(f"{_XLINK}href", "")).startswith("#")}
    for parent in list(root.iter()):
        for child in list(parent):
            child.tail = None if not (child.tail or "").strip() else child.tail
            if child.tag.removeprefix(_SVG) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text = element.text if (element.text or "").strip() else None
        _rename_ids(element, name, used)
        for key in ("d", "x", "y", "transform", "points"):
            if key in element.attrib:
                element.set(key, _short_numbers(element.attrib[key]))
        if "style" in element.attrib:
            element.set("style", _FONT.sub("", element.attrib["style"]).replace(": ", ":").replace("; ", ";"))
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    root.set("style", _ROOT_STYLE)
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)
    return root


def _short_numbers(text: str) -> str:
    return _NUMBER.sub(lambda found: f"{float(found.group()):.2f}", " ".join(text.split()))


def _rename_ids(element: ElementTree.Element, name: str, used: set[str]) -> None:
    own = element.attrib.pop("id", None)
    if own is not None and own.startswith(HOVER_PREFIX):
        cell, _, text = own.removeprefix(HOVER_PREFIX).partition(":")
        if cell:
            element.set("data-cell", cell)
        if text:
            hover = ElementTree.Element("title")
            hover.text = text
            element.insert(0, hover)
    elif own == TITLE_GID:
        element.set("class", TITLE_GID)
    elif own in used:
        element.set("id", f"{name}-{own}")
    for key, value in list(element.attrib.items()):
        if key == f"{_XLINK}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value[1:]}" if value.startswith("#") else value)
        else:
            element.set(key, _URL.sub(rf"url(#{name}-\1)", value))


def _standalone(root: ElementTree.Element) -> bytes:
    root.set("xmlns", "http://www.w3.org/2000/svg")
    text = ElementTree.tostring(root, encoding="unicode")
    del root.attrib["xmlns"]
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + text.encode() + b"\n"


def _themed(root: ElementTree.Element) -> str:
    """Changes the picture: no title in it, colours of the palette as CSS variables, e.g. `var(--c-1b2128,#1b2128)`."""
    _cut_title(root)
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _COLOR.sub(_variable, element.attrib["style"]))
    return ElementTree.tostring(root, encoding="unicode")


def _cut_title(root: ElementTree.Element) -> None:
    """Take the figure's title out, and the strip at the top where it stood."""
    for parent in root.iter():
        for child in list(parent):
            if child.get("class") == TITLE_GID:
                parent.remove(child)
                left, top, width, height = (float(number) for number in root.attrib["viewBox"].split())
                cut = max(float(text.get("y", "0")) for text in child.iter("text")) + 2.0
                root.set("viewBox", f"{left:g} {top + cut:g} {width:g} {height - cut:g}")
                root.set("height", str(round((height - cut) * 96 / 72)))


def _variable(color: re.Match[str]) -> str:
    text = color.group()
    return f"var(--c-{text[1:]},{text})" if text in DARK else text


def dark_variables() -> str:
    """CSS declarations that give every colour of `inline_svg` its dark variant."""
    return "".join(f"--c-{light[1:]}:{dark};" for light, dark in DARK.items())
