"""Plots as SVG and PNG files, the texts that a pointer shows in them, and the SVG as a part of an HTML page."""

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
TOLD = "told:"  # prefix of ids that hold the texts of artists, until these become title elements
REFERENCE = re.compile(r"#([\w-]+)")
LONG = re.compile(r"(-?\d+\.\d{2})\d+")  # a number with more than two decimals: a hundredth of a point is not visible
NUMBERS = ("d", "x", "y", "width", "height", "transform", "points")

# The SVG elements that a plot consists of; any other one is left out of a page.
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
    """Show a text when a pointer rests on an artist: `texts` has one text for the whole artist, or one for each of its
    points."""
    artist.set_gid(TOLD + json.dumps(list(texts)))


def finish(figure: Figure, name: str, title: str, description: str) -> Plot:
    """The figure as a plot in both formats, without date and versions, so that drawing it again gives the same
    bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    lay_out(figure)
    figure.set_layout_engine("none")  # so that the layout is not made again for each format
    with mpl.rc_context({"svg.hashsalt": f"kdbench {name}"}):  # so that no two plots of a page share an id
        FigureCanvasSVG(figure).print_svg(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    return Plot(name, title, description, _tidy(svg.getvalue()), png.getvalue())


def _tidy(svg: bytes) -> bytes:
    """The SVG with a title element for each text of `name_points`, and without metadata, unused ids and digits that
    make no visible difference."""
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
    """Add a title element to the group if there is one text, else to each of its points. ValueError if there are not as
    many texts as points."""
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
    """The plot's <svg> element for a page of HTML. It is as wide as its container, has the plot's title and description
    as accessible name, and holds nothing that could run code or load resources. Ids of different plots differ."""
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
