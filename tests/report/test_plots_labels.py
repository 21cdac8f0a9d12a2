"""Names in plots: where they stand."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from kdbench.report.drawing import STYLE, new_figure
from kdbench.report.plots.labels import LONGEST, Label, keep_apart, name_beside, name_ends, shorten


def draw(places, texts, *, bars=(), needed=True):
    """The axes with marks and their names, and the box of each name, without its line, in pixels by its text."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure("", 4.6)
        axes.set(xlim=(0, 10), ylim=(0, 10))
        axes.plot(*zip(*places, strict=True), "o", markersize=6)
        labels = [Label(*place, text, needed) for place, text in zip(places, texts, strict=True)]
        name_beside(figure, axes, places, places, [np.array(bar) for bar in bars], labels)
        renderer = FigureCanvasAgg(figure).get_renderer()
        for text in axes.texts:
            text.update_positions(renderer)
        return axes, {text.get_text(): Text.get_window_extent(text, renderer) for text in axes.texts}


def overlaps(one, other):
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width > 1 and height > 2  # a box has room above and below its letters


def covers(box, axes, place):
    x, y = axes.transData.transform(place)
    return box.x0 + 1 < x < box.x1 - 1 and box.y0 + 1 < y < box.y1 - 1


CROWD = [(5 + .25 * (i % 4), 5 + .3 * (i // 4)) for i in range(12)]  # marks side by side


def test_names_in_a_crowd_cover_neither_each_other_nor_marks_and_stay_inside():
    axes, boxes = draw(CROWD, [f"method_{i}" for i in range(12)])
    assert len(boxes) == 12
    assert not [pair for pair in itertools.combinations(boxes.values(), 2) if overlaps(*pair)]
    assert not [text for text, box in boxes.items() for place in CROWD if covers(box, axes, place)]
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 + 1 for box in boxes.values())


def test_a_name_away_from_its_mark_has_a_line_to_it_and_one_beside_it_has_none():
    axes, _ = draw([(1, 1), *CROWD], [f"method_{i}" for i in range(13)])
    lines = {text.get_text(): text.arrow_patch is not None for text in axes.texts}
    assert not lines["method_0"] and sum(lines.values()) > 4


def test_names_of_marks_upon_each_other_are_led_to_them_by_lines_that_can_be_seen():
    axes, boxes = draw([(5, 5), (5, 5.02)], ["one", "other"])
    x, y = axes.transData.transform((5, 5))
    for text in axes.texts:
        box = boxes[text.get_text()]
        assert text.arrow_patch is not None
        assert max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1) > 9


def test_names_that_are_not_needed_are_left_out_of_a_crowd_and_kept_beside_it():
    _, boxes = draw([(1, 1), (8, 8), (8, 8.01)], ["alone", "one", "other"], needed=False)
    assert set(boxes) == {"alone"}


def test_a_name_keeps_off_an_interval():
    bar = ((5, 5), (8, 5))
    axes, boxes = draw([(5, 5)], ["method"], bars=[bar])
    assert not [x for x in np.linspace(5, 8, 50) if covers(boxes["method"], axes, (x, 5))]


def test_names_at_the_edge_stay_inside_the_axes():
    places = [(0, 0), (10, 0), (0, 10), (10, 10)]
    axes, boxes = draw(places, ["south-west", "south-east", "north-west", "north-east"])
    inside = axes.get_window_extent()
    for box in boxes.values():
        assert inside.x0 - 1 <= box.x0 and box.x1 <= inside.x1 + 1
        assert inside.y0 - 2 <= box.y0 and box.y1 <= inside.y1 + 2


def test_the_same_points_give_the_same_places():
    def places():
        return [text.xyann for text in draw(CROWD, [f"method_{i}" for i in range(12)])[0].texts]

    assert np.array_equal(places(), places())


def test_heights_are_kept_apart_and_as_near_as_can_be():
    assert keep_apart([.5, .2, .8], .1) == pytest.approx([.5, .2, .8])
    assert keep_apart([.5, .5, .5], .1) == pytest.approx([.4, .5, .6])
    assert keep_apart([1, 1, .2], .1) == pytest.approx([.9, 1, .2])
    assert keep_apart([0, 0], .1) == pytest.approx([0, .1])
    assert keep_apart([], .1) == []
    assert np.diff(keep_apart([.5] * 30, .1)) == pytest.approx(.1)  # too many: beyond the axes, and yet apart


def test_ends_of_lines_are_named_from_top_to_bottom_as_they_end():
    with mpl.rc_context(STYLE):
        figure, axes = new_figure("", 4)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        name_ends(figure, axes, [(1, .50, "middle", "black"), (1, .51, "top", "red"), (1, .1, "bottom", "blue")])
        heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert heights["top"] - heights["middle"] > .03 and heights["bottom"] == pytest.approx(.1)
    assert [to_hex(text.arrow_patch.get_edgecolor()) for text in axes.texts] == ["#000000", "#ff0000", "#0000ff"]
    assert {text.get_color() for text in axes.texts} == {"black"}


def test_long_names_end_in_an_ellipsis():
    assert shorten("a" * LONGEST) == "a" * LONGEST
    assert shorten("a" * (LONGEST + 1)) == "a" * (LONGEST - 1) + "…"
