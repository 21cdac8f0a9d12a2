"""A plot as SVG: the names under a pointer, and the element that stands in a page."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from support.records import REGISTRY, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.report.drawing import STYLE, new_figure
from kdbench.report.plots import Plot, inline_svg, plots
from kdbench.report.plots.svg import ELEMENTS, LINKS, NAMESPACE, finish, name_points
from kdbench.results.store import Store

HOSTILE = "a</title></svg><script>alert('x')</script> \" onload=alert(1) & %"
VIEW = re.compile(r"0 0 [\d.]+ [\d.]+")


def draw(*texts, name="some", marks=((1, 2),)):
    """A plot with one artist, which has these points and names."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure("The heading", 3)
        (line,) = axes.plot(*zip(*marks, strict=True), "o")
        if texts:
            name_points(line, texts)
        axes.annotate(HOSTILE, (1, 2))
        return finish(figure, name, f"A plot {HOSTILE}", "What it shows.")


def titles(svg):
    """By text, the kind of element that each title stands in first."""
    found = {}
    for element in ElementTree.fromstring(svg).iter():
        for place, child in enumerate(element):
            if child.tag == f"{{{NAMESPACE}}}title":
                assert place == 0  # browsers show the first child alone
                found[child.text] = element.tag.rpartition("}")[2]
    return found


def ids(svg):
    return [element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The plots of two cells of three methods."""
    store = Store(tmp_path_factory.mktemp("drawn"))
    for dataset in ("digits", "letters"):
        for place, method in enumerate(("ce", "kd", "at")):
            store.write(record(
                spec(method, dataset=dataset), .8 + place / 50, metrics={"agreement": .7 + place / 50},
                vectors={"class_accuracy": [.8, .9], **{f"reliability_{name}": [4.0, 6.0] for name in (
                    "images", "correct", "confidence")}}, curves={"validation_accuracy": [.5, .8]}))
        store.write(record(teacher_spec(dataset), .9, role="teacher"))
    leaderboard = build(store.folder, REGISTRY)
    return plots(leaderboard, read_details(store, leaderboard))


def test_an_artist_has_one_title_or_one_for_each_of_its_points():
    assert titles(draw("kd: 85 %").svg) == {"kd: 85 %": "g"}
    assert titles(draw("kd", "ce", marks=((1, 2), (3, 4))).svg) == {"kd": "use", "ce": "use"}
    assert titles(draw().svg) == {}


def test_names_are_text_whatever_they_hold():
    plot = draw(HOSTILE)
    for svg in (plot.svg, inline_svg(plot)):
        assert titles(svg) == {HOSTILE: "g"}
        assert {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()} <= set(ELEMENTS)
    assert ElementTree.fromstring(inline_svg(plot)).get("aria-label") == f"A plot {HOSTILE}. What it shows."
    assert "<script" not in inline_svg(plot)


def test_a_page_gets_an_svg_element_that_is_named_and_as_wide_as_its_place(drawn):
    for plot in drawn:
        text = inline_svg(plot)
        assert text.startswith("<svg ") and text.endswith("</svg>") and "<?xml" not in text and "DOCTYPE" not in text
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img" and root.get("aria-label") == f"{plot.title}. {plot.description}"
        assert root.get("width") is None and root.get("height") is None and VIEW.fullmatch(root.get("viewBox"))
        assert root.get("style").endswith("width: 100%; height: auto")


def test_no_two_plots_of_a_page_share_an_id_and_each_finds_its_own(drawn):
    everything = [one for plot in drawn for one in ids(inline_svg(plot))]
    assert len(everything) == len(set(everything)) > 20
    for plot in drawn:
        text = inline_svg(plot)
        assert set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text)) == set(ids(text))
    assert not set(ids(draw(name="some").svg)) & set(ids(draw(name="other").svg))


def test_nothing_that_runs_or_is_loaded_from_elsewhere_reaches_a_page():
    svg = (f'<svg xmlns="{NAMESPACE}" xmlns:xlink="{LINKS}" viewBox="0 0 1 1" onload="alert(1)">'
           '<script>alert(1)</script><foreignObject/><style>* { color: red }</style>'
           '<g onclick="alert(1)" class="a"><a href="javascript:1"/>'
           '<use xlink:href="https://example.org/a.svg#b"/><use xlink:href="#b"/>'
           '<image href="https://example.org/a.png"/><image xlink:href="data:image/png;base64,AA"/></g></svg>')
    text = inline_svg(Plot("some", "A plot", "What it shows.", svg.encode(), b""))
    assert not re.search("alert|script|foreign|style>|onload|onclick|example|javascript|<a", text.partition(">")[2])
    assert "onload" not in text and 'class="a"' in text
    assert 'href="#b"' in text and "data:image/png;base64,AA" in text


def test_every_plot_has_the_names_of_its_methods_under_the_pointer(drawn):
    for plot in drawn:
        if not plot.name.startswith("classes"):  # a picture: its rows are named beside it
            told = " ".join(titles(plot.svg))
            assert all(re.search(rf"\b{method}\b", told) for method in ("kd", "at")), plot.name


def test_numbers_have_no_digits_that_nobody_sees(drawn):
    for plot in drawn:
        assert not [value for value in re.findall(r' (?:d|x|y|transform)="([^"]*)"', plot.svg.decode())
                    if re.search(r"\.\d{3}", value) and not value.startswith(("scale", "matrix"))], plot.name
