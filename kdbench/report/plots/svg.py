"""A plot as SVG and PNG: its bytes, the names that a pointer sees in it, and the SVG as a part of a page."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from kdbench.report.drawing import lay_out

NAMESPACE, LINKS = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
TOLD = "told:"  # begins the ids of artists that have names, before they become titles
REFERENCE = re.compile(r"#([\w-]+)")
LONG = re.compile(r"(-?\d+\.\d{2})\d+")  # a number with more digits than a reader can see: a hundredth of a point
NUMBERS = ("d", "x", "y", "width", "height", "transform", "points")

# What a plot consists of; anything else is left out of a page.
ELEMENTS = ("svg", "g", "defs", "path", "use", "clipPath", "rect", "text", "tspan", "title", "image", "polygon")

ElementTree.register_namespace("", NAMESPACE)
ElementTree.register_namespace("xlink", LINKS)


@dataclass(frozen=True)
class Plot:
    """A plot as files, and the texts that stand with it."""

    name: str         # of its files, without their endings
    title: str
    description: str  # a sentence for readers who cannot see it
    svg: bytes
    png: bytes


def name_points(artist: Artist, texts: Sequence[str]) -> None:
    """Show one text for a whole artist, or one for each of its points, when a pointer rests there."""
    artist.set_gid(TOLD + json.dumps(list(texts)))


def finish(figure: Figure, name: str, title: str, description: str) -> Plot:
    """The figure in both formats, without the date and versions, which would change its bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    lay_out(figure)
    figure.set_layout_engine("none")  # so that the layout is not made again for each format
    with mpl.rc_context({"svg.hashsalt": f"kdbench {name}"}):  # so that no two plots of a page share an id
        FigureCanvasSVG(figure).print_svg(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return Plot(name, title, description, _tidy(svg.getvalue()), png.getvalue())


def _tidy(svg: bytes) -> bytes:
    """The SVG with titles for the names of points, and without what nobody sees or refers to."""
    root = ElementTree.fromstring(svg)
    used = {found for element in root.iter() for key, value in element.attrib.items() if key != "id"
            for found in REFERENCE.findall(value)}
    for element in list(root.iter()):
        _drop(element, ("metadata", "style"))
        identifier = element.get("id", "")
        if identifier.startswith(TOLD):
            _add_titles(element, json.loads(identifier.removeprefix(TOLD)))
        if identifier not in used:
            element.attrib.pop("id", None)
        for key in NUMBERS:
            if key in element.attrib and not element.tag.endswith("}image"):
                element.set(key, LONG.sub(r"\1", " ".join(element.attrib[key].split())))
        if element.tail is None or not element.tail.strip():
            element.tail = "\n"
        if len(element) and (element.text is None or not element.text.strip()):
            element.text = "\n"
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")  # what matplotlib's style sheet says
    root.tail = None
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _add_titles(group: ElementTree.Element, texts: list[str]) -> None:
    """Give the group the one text as title, or each of its points its own."""
    points = [element for element in group.iter(f"{{{NAMESPACE}}}use")]
    places = [group] if len(texts) == 1 else points
    for place, text in zip(places, texts, strict=True):
        title = ElementTree.Element(f"{{{NAMESPACE}}}title")
        title.text = text
        place.insert(0, title)


def _drop(parent: ElementTree.Element, names: Sequence[str]) -> None:
    for child in list(parent):
        if child.tag.rpartition("}")[2] in names:
            parent.remove(child)


def inline_svg(plot: Plot) -> str:
    """The plot's <svg> element for a page of HTML: as wide as its place, named by its title and description, and with
    nothing in it that could run or load something. Ids of two plots differ."""
    root = ElementTree.fromstring(plot.svg)
    for element in list(root.iter()):
        _drop(element, [name for child in element if (name := child.tag.rpartition("}")[2]) not in ELEMENTS])
        for key, value in list(element.attrib.items()):
            link = key.rpartition("}")[2] == "href" and not value.startswith(("#", "data:image/png;"))
            if link or key.lower().startswith("on"):
                del element.attrib[key]
    for key in ("width", "height"):
        root.attrib.pop(key, None)
    style = "; ".join(filter(None, [root.get("style"), "width: 100%; height: auto"]))
    for key, value in (("role", "img"), ("aria-label", f"{plot.title}. {plot.description}"), ("style", style)):
        root.set(key, value)
    return ElementTree.tostring(root, encoding="unicode")
