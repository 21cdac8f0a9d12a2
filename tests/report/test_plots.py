"""What is drawn: the numbers in the figures, before they become SVG and PNG."""

import json

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from support.profiles import comparison, profile, training
from support.records import RECIPE, REGISTRY, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.analysis.intervals import Estimate
from kdbench.plugins import source
from kdbench.plugins.source import FAMILIES
from kdbench.profile.record import write_profile
from kdbench.report import drawing, plots
from kdbench.report.plots import svg
from kdbench.report.plots.across import LANES, MOST_OUTLIERS
from kdbench.report.plots.labels import LONGEST
from kdbench.report.plots.rows import classes_with_room
from kdbench.report.plots.scatter import FEW, Point, front
from kdbench.results.store import Store
from kdbench.spec import Architecture, TrainedTeacher

CELL = "big-small-on-digits"
GREY = "#555555"
HALF = 100 * 4.3027 * .01 / 3**.5  # t of two degrees of freedom times the standard error of x, x + .01 and x + .02


@pytest.fixture
def draw():
    """The axes of every plot of a folder, by name."""
    def call(folder):
        leaderboard = build(folder, REGISTRY)
        with mpl.rc_context(drawing.STYLE):
            return {one.name: one.figure.axes[0] for one in plots.drawings(
                leaderboard, read_details(Store(folder), leaderboard))}

    return call


@pytest.fixture
def folder(tmp_path):
    """Three seeds of ce and kd, one of at, and a teacher."""
    store = Store(tmp_path)
    for method, seed, accuracy, agreement, seconds in (
            ("ce", 0, .80, .7, 10), ("ce", 1, .81, .7, 10), ("ce", 2, .82, .7, 10),
            ("kd", 0, .88, .9, 40), ("kd", 1, .89, .9, 40), ("kd", 2, .90, .9, 40), ("at", 0, .78, .8, 20)):
        store.write(record(
            spec(method, seed), accuracy, metrics={"agreement": agreement}, seconds=seconds,
            vectors={"class_accuracy": [accuracy, None, 1.0], "reliability_images": [0.0, 4.0, 6.0],
                     "reliability_correct": [0.0, 2.0, 6.0], "reliability_confidence": [0.0, 2.5, 5.5]},
            curves={"validation_accuracy": [accuracy / 2, accuracy]}))
    store.write(record(teacher_spec(), .9, role="teacher"))
    return tmp_path


def points(axes):
    """(x, y) of every single mark."""
    return [tuple(line.get_xydata()[0]) for line in axes.lines
            if len(line.get_xydata()) == 1 and line.get_marker() in (*drawing.MARKERS, drawing.OTHER[1])]


def lines(axes, **look):
    """The points of every line that looks so."""
    return [line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) > 1
            and all(getattr(line, f"get_{name}")() == value for name, value in look.items())]


def intervals(axes):
    """The ends of every interval."""
    return [tuple(map(tuple, line.get_xydata().tolist())) for line in axes.lines
            if line.get_alpha() and len(line.get_xydata()) == 2]


def arrows(axes):
    """Where an interval or the place of a point goes on beyond the axis, and in which direction."""
    names = {marker: name for name, marker in drawing.CUT.items()}
    return [(names[line.get_marker()], *line.get_xydata()[0].tolist()) for line in axes.lines
            if line.get_marker() in names]


def named(axes):
    """What the pointer is told of each artist that has names."""
    ids = [line.get_gid() for line in axes.lines]
    return [text for one in ids if one for text in json.loads(one.removeprefix(svg.TOLD))]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(axes):
    """The entries below the figure."""
    return [text.get_text() for text in axes.figure.legends[0].get_texts()]


def test_every_family_differs_in_colour_and_in_marker_and_teachers_from_all_of_them():
    looks = [*map(drawing.family_look, FAMILIES), drawing.family_look("")]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(FAMILIES) + 1


def test_any_number_of_things_differ_in_colour_or_marker():
    assert len({drawing.look(number) for number in range(81)}) == 81
    assert drawing.look(81) == drawing.look(0)


def test_a_tenth_family_is_drawn_with_a_look_of_its_own(draw, folder, monkeypatch):
    for module in (drawing, source):
        monkeypatch.setattr(module, "FAMILIES", (*FAMILIES, "contrastive"))
    Store(folder).write(record(spec("novel"), .9, family="contrastive"))
    assert drawing.family_look("contrastive") not in [*map(drawing.family_look, FAMILIES), drawing.OTHER]
    found = draw(folder)
    assert legend(found[f"accuracy-{CELL}"]) == ["baseline", "logit", "attention", "contrastive"]
    assert ticks(found["gain-by-family"].yaxis) == ["logit", "attention", "contrastive"]


def test_families_that_are_not_known_are_drawn_behind_the_others_and_share_a_look(draw, folder):
    for method, family in (("novel", "mine"), ("newer", "an_other"), ("newest", "mine")):
        Store(folder).write(record(spec(method), .9, family=family, metrics={"agreement": .5, "worst_group_accuracy": 0,
                                                                             "group_gap": .1}))
    write_profile(Store(folder), profile("pair", deployment=comparison()))
    write_profile(Store(folder), profile(run=spec("novel"), training=training(.01, 1.0)))
    found = draw(folder)
    assert legend(found["latency-digits-cpu"]) == ["mine"]  # a teacher looks like it, but is named at its point
    for name in ("accuracy", "agreement", "seconds"):
        assert legend(found[f"{name}-{CELL}"]) == ["baseline", "logit", "attention", "an other, mine"]
    assert ticks(found["gain-by-family"].yaxis) == ["logit", "attention", "an other", "mine"]
    assert ticks(found[f"group-gaps-{CELL}"].yaxis) == ["newer", "newest", "novel"]


def test_accuracies_are_drawn_in_percent_with_their_intervals_the_best_on_top(draw, folder):
    axes = draw(folder)[f"accuracy-{CELL}"]
    assert ticks(axes.yaxis) == ["kd", "ce", "at"] and axes.yaxis_inverted()
    assert points(axes) == [pytest.approx(p) for p in ((89, 0), (81, 1), (78, 2))]
    assert intervals(axes) == [(pytest.approx((mean - HALF, place)), pytest.approx((mean + HALF, place)))
                               for mean, place in ((89, 0), (81, 1))]  # of one seed there is none
    assert arrows(axes) == []
    assert [line[0][0] for line in lines(axes, linestyle="--")] == pytest.approx([90, 81])  # the teacher's, and ce's


def test_an_axis_has_room_for_the_ends_of_intervals_up_to_a_third_of_what_the_means_take():
    assert drawing.reach([0, 10]) == pytest.approx((-.6, 10.6))
    assert drawing.reach([0, 10], [-2, 11]) == pytest.approx((-2.6, 11.6))
    assert drawing.reach([0, 10], [-50, 60]) == pytest.approx((-4.1, 14.1))
    assert drawing.reach([5]) == (4, 6)


def test_two_seeds_are_no_basis_for_an_interval(draw, folder):
    Store(folder).write(record(spec("at", 1), .80, metrics={"agreement": .9}))
    found = draw(folder)
    assert [{y for _, y in ends} for ends in intervals(found[f"accuracy-{CELL}"])] == [{0}, {1}]  # at has place 2
    assert len(intervals(found[f"agreement-{CELL}"])) == 2


def test_an_arrow_is_where_the_axis_ends_before_an_interval(draw, folder):
    for seed, accuracy in ((1, .60), (2, .96)):
        Store(folder).write(record(spec("at", seed), accuracy, metrics={"agreement": .8}))
    axes = draw(folder)[f"accuracy-{CELL}"]  # the interval of at is 78 ± 45
    low, high = axes.get_xlim()
    assert 50 < low < 78 and 90 < high < 110
    assert arrows(axes) == [("left", pytest.approx(low), 2), ("right", pytest.approx(high), 2)]
    assert ((pytest.approx(low), 2), (pytest.approx(high), 2)) in intervals(axes)
    axes = draw(folder)[f"agreement-{CELL}"]
    low, high = axes.get_ylim()
    assert sorted(arrows(axes)) == [("down", pytest.approx(80), pytest.approx(low)),
                                    ("up", pytest.approx(80), pytest.approx(high))]


def test_fidelity_is_drawn_against_accuracy_with_the_intervals_of_both(draw, folder):
    Store(folder).write(record(spec("kd", 2), .90, metrics={"agreement": .93}))
    axes = draw(folder)[f"agreement-{CELL}"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((70, 81), (80, 78), (91, 89))]
    upright = [ends for ends in intervals(axes) if ends[0][0] == ends[1][0]]
    assert sorted(upright) == [((x, pytest.approx(y - HALF)), (x, pytest.approx(y + HALF)))
                               for x, y in ((pytest.approx(70), 81), (pytest.approx(91), 89))]
    (across,) = (ends for ends in intervals(axes) if ends not in upright)  # that of ce has no width
    half = 4.3027 * 3**.5 / 3**.5
    assert across == (pytest.approx((91 - half, 89), abs=.01), pytest.approx((91 + half, 89), abs=.01))
    assert lines(axes, color=GREY) == []  # agreement is no cost: it has no Pareto front


def test_a_cost_has_the_line_of_what_is_beyond_the_interval_of_all_that_is_cheaper(draw, folder):
    axes = draw(folder)[f"seconds-{CELL}"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((10, 81), (20, 78), (40, 89))]
    (front,) = lines(axes, color=GREY)
    assert front == [pytest.approx(p) for p in ([10, 81], [40, 89])]
    assert axes.get_xscale() == "log"
    assert sorted(texts(axes)) == ["at", "ce", "kd"]


def at(cost, accuracy, half=1.0):
    return Point(f"{cost} {accuracy}", "logit", Estimate(cost, None, 1), Estimate(accuracy, half, 3), False)


def test_the_front_begins_with_the_cheapest_and_goes_on_above_its_interval():
    points = [at(4, 62), at(1, 50), at(2, 51.5), at(3, 60), at(5, 63.5), at(6, 65)]
    assert front(points) == [at(1, 50), at(3, 60), at(5, 63.5)]
    assert front([at(1, 50), at(1, 60)]) == [at(1, 60)]


def test_no_point_of_the_front_lies_below_a_cheaper_one_that_is_not_on_it():
    wide = at(2, 55, half=6)  # its interval begins below the end of the first
    assert front([at(1, 50), wide, at(3, 54), at(4, 58)]) == [at(1, 50), at(4, 58)]


def test_a_point_without_an_interval_is_on_no_front():
    assert front([at(1, 50, None), at(2, 60), at(3, 70, None)]) == [at(2, 60)]
    assert front([at(1, 50, None), at(2, 60, None)]) == []


def test_the_description_of_a_cost_says_what_the_line_is_or_why_there_is_none(folder):
    def told():
        leaderboard = build(folder, REGISTRY)
        return next(one.description for one in plots.drawings(leaderboard, read_details(Store(folder), leaderboard))
                    if one.name == f"seconds-{CELL}")

    assert "The line joins the cheapest and each dearer one" in told()
    for seed in range(3):
        Store(folder).write(record(spec("kd", seed), .80 + seed / 100, seconds=40))
    assert "no 95 % interval lies above that of the cheapest" in told()
    for method in ("ce", "kd"):
        Store(folder).files.record(spec(method, 2).id).unlink()
    assert "fewer than three seeds" in told()


def test_one_method_alone_is_not_drawn_against_anything(draw, tmp_path):
    Store(tmp_path).write(record(spec("ce"), .8, metrics={"agreement": .7}))
    assert set(draw(tmp_path)) == {f"accuracy-{CELL}"}


def test_latency_is_that_of_the_network_that_a_method_deploys_beside_the_teacher_s(draw, folder):
    Store(folder).write(record(teacher_spec(), .95, role="teacher"))
    write_profile(Store(folder), profile("pair", deployment=comparison(student=.002, teacher=.006)))
    for method in ("ce", "kd"):
        write_profile(Store(folder), profile(run=spec(method), training=training(.01, 1.0)))
    axes = draw(folder)["latency-digits-cpu"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((2, 81), (2, 89), (6, 95))]
    (front,) = lines(axes, color=GREY)
    assert front == [pytest.approx(p) for p in ([2, 89], [6, 95])]  # a teacher is one given network: exact


@pytest.fixture
def far_below(folder):
    """Four more methods with an accuracy of about 80 %, and one with 10 %."""
    for number in range(4):
        Store(folder).write(record(spec("kd", 0, temperature=5.0 + number), .8 + number / 100,
                                   metrics={"agreement": .8}))
    Store(folder).write(record(spec("kd", 0, temperature=9.0), .1, metrics={"agreement": .2}, seconds=30))
    return folder


def test_a_method_far_below_the_others_is_drawn_at_the_edge_with_its_figure_and_an_arrow(draw, far_below):
    found = draw(far_below)
    axes = found[f"seconds-{CELL}"]
    (bottom,) = [y for x, y in points(axes) if x == 30]
    assert axes.get_ylim()[0] < bottom < 78 and axes.get_ylim()[0] > 70
    assert "kd (temperature=9.0) (10.0)" in texts(axes) and ("down", 30, axes.get_ylim()[0]) in arrows(axes)
    axes = found[f"accuracy-{CELL}"]
    assert "10.0" in texts(axes)
    assert 70 < axes.get_xlim()[0] < min(x for x, _ in points(axes)) < 78
    assert arrows(axes) == [("left", axes.get_xlim()[0], 7)]
    assert texts(found["gain-by-family"]) == ["kd (temperature=9.0) -70"]
    assert arrows(found["gain-by-family"]) == [("left", found["gain-by-family"].get_xlim()[0], 0)]
    assert found["gain-by-family"].get_xlim()[0] > -10


def test_outliers_by_both_metrics_stand_beside_each_other_with_both_figures(draw, far_below):
    Store(far_below).write(record(spec("kd", 0, temperature=9.5), .15, metrics={"agreement": .3}))
    axes = draw(far_below)[f"agreement-{CELL}"]
    assert {"kd (temperature=9.0) (20.0, 10.0)", "kd (temperature=9.5) (30.0, 15.0)"} <= set(texts(axes))
    lowest = [x for x, y in points(axes) if y < 78]
    assert len(set(lowest)) == 2 and axes.get_xlim()[0] > 60


def test_no_name_covers_the_arrow_of_an_outlier(draw, far_below):
    for number in range(6):
        Store(far_below).write(record(spec("kd", 0, temperature=9.1 + number), .10 + number / 100,
                                      metrics={"agreement": .2}, seconds=30 + number))
    for number in range(20):
        Store(far_below).write(record(spec("kd", 0, temperature=20.0 + number), .8, metrics={"agreement": .8}))
    for name in ("agreement", "seconds"):
        axes = draw(far_below)[f"{name}-{CELL}"]
        renderer = FigureCanvasAgg(axes.figure).get_renderer()
        for text in axes.texts:
            text.update_positions(renderer)
        boxes = [Text.get_window_extent(text, renderer) for text in axes.texts]
        tips = [axes.transData.transform(place) + np.array([0, 2]) for _, *place in arrows(axes)]
        assert len(tips) >= 7 and not [tip for tip in tips for box in boxes if box.contains(*tip)], name


def test_of_many_outliers_of_a_family_the_lowest_are_named_and_the_others_counted(draw, folder):
    for number in range(20):
        Store(folder).write(record(spec("kd", 0, temperature=10.0 + number), .9))
    for number in range(6):
        Store(folder).write(record(spec("at", 0).model_copy(update={"hyperparameters": {"a": number}}),
                                   .10 + number / 100, family="attention"))
    (text,) = texts(draw(folder)["gain-by-family"])
    assert text.startswith("at (a=0) -70, at (a=1) -69,") and text.endswith(", 2 more")
    assert text.count("at (") == MOST_OUTLIERS


def test_a_pointer_is_told_the_method_and_its_figures_everywhere(draw, folder):
    found = draw(folder)
    assert named(found[f"agreement-{CELL}"]) == [
        "kd: test accuracy 89.00 ± 2.48 %, agreement 90.00 ± 0.00 %",
        "ce: test accuracy 81.00 ± 2.48 %, agreement 70.00 ± 0.00 %", "at: test accuracy 78.00 %, agreement 80.00 %"]
    assert named(found[f"accuracy-{CELL}"])[0] == "kd: test accuracy 89.00 ± 2.48 %"
    assert named(found["gain-by-family"]) == ["kd, big-small on digits: +8.00 points",
                                              "at, big-small on digits: -2.00 points"]
    for name in ("curves", "reliability"):
        assert named(found[f"{name}-{CELL}"]) == ["kd", "ce", "at"]


def test_every_figure_is_headed_by_pair_dataset_and_the_results_hash(draw, folder):
    for name, axes in draw(folder).items():
        heading = axes.figure.get_suptitle().replace("\n", " ")
        assert heading.endswith(f"; results {build(folder, REGISTRY).results_hash[:16]}"), name
        assert "big-small on digits" in heading or name == "gain-by-family"


@pytest.mark.parametrize("count", [FEW, FEW + 1])
def test_few_methods_are_all_named_and_of_many_the_best_the_references_and_the_outliers(draw, tmp_path, count):
    for number in range(count - 5):  # a heap of equal ones
        Store(tmp_path).write(record(spec("kd", 0, temperature=10.0 + number), .8, metrics={"agreement": .8}))
    for run, accuracy, agreement in ((spec("ce"), .8, .8), (spec("kd"), .8, .8), (spec("at"), .9, .8),
                                     (spec("kd", temperature=8.0), .1, .8), (spec("kd", temperature=9.0), .1, .8)):
        Store(tmp_path).write(record(run, accuracy, metrics={"agreement": agreement}))
    found = texts(draw(tmp_path)[f"agreement-{CELL}"])
    outliers = {"kd (temperature=8.0) (10.0)", "kd (temperature=9.0) (10.0)"}  # at the same place
    assert {"ce", "kd", "at", *outliers} <= set(found)
    assert len(found) == (FEW if count == FEW else 5)


def test_a_name_that_is_long_is_cut(draw, folder):
    Store(folder).write(record(spec("m" * 100), .8, metrics={"agreement": .8}))
    found = draw(folder)
    for labels in (texts(found[f"agreement-{CELL}"]), ticks(found[f"accuracy-{CELL}"].yaxis)):
        assert "m" * (LONGEST - 1) + "…" in labels


def test_classes_have_their_names_and_of_very_many_those_that_change_most(draw, tmp_path):
    for method in ("ce", "kd"):
        Store(tmp_path).write(record(spec(method, dataset="fashion_mnist"), .8, vectors={"class_accuracy": [.5] * 10}))
    axes = draw(tmp_path)["classes-big-small-on-fashion-mnist"]
    assert ticks(axes.xaxis)[:2] == ["T-shirt/top", "Trouser"] and len(ticks(axes.xaxis)) == 10
    changes = np.zeros((2, 100))
    changes[:, 7], changes[0, 8], changes[0, 40] = .1, .1, np.nan
    chosen = classes_with_room(changes)
    assert 7 in chosen and 8 not in chosen and 45 <= len(chosen) <= 50
    assert classes_with_room(np.zeros((2, 50))) == list(range(50))


def test_classes_are_drawn_as_changes_in_points(draw, folder):
    axes = draw(folder)[f"classes-{CELL}"]
    (image,) = axes.images
    assert ticks(axes.yaxis) == ["kd", "at"]
    assert image.get_array().filled(np.nan).tolist() == [pytest.approx([8, np.nan, 0], nan_ok=True),
                                                         pytest.approx([-2, np.nan, 0], nan_ok=True)]
    low, high = image.get_clim()
    assert low == -high


def test_a_reliability_diagram_has_the_mean_of_each_bin_that_holds_images(draw, folder):
    axes = draw(folder)[f"reliability-{CELL}"]
    assert lines(axes, linestyle="--") == [[[0, 0], [100, 100]]]
    drawn = lines(axes, linestyle="-")
    assert drawn == 3 * [[pytest.approx([62.5, 50]), pytest.approx([100 * 5.5 / 6, 100])]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kd", "ce", "at"]


def test_a_reliability_diagram_tells_how_many_images_each_bin_holds(draw, folder):
    counts = draw(folder)[f"reliability-{CELL}"].figure.axes[1]
    steps = [patch.get_data() for patch in counts.patches]
    assert len(steps) == 3 and counts.get_yscale() == "log" and counts.get_ylabel() == "images, %"
    for step in steps:
        assert step.values == pytest.approx([np.nan, 40, 60], nan_ok=True)
        assert step.edges == pytest.approx([0, 100 / 3, 200 / 3, 100])


def test_single_methods_look_like_their_family_and_those_of_one_family_differ_in_their_lines(draw, folder):
    for temperature, accuracy in ((5.0, .95), (6.0, .96)):
        Store(folder).write(record(
            spec("kd", 0, temperature=temperature), accuracy, curves={"validation_accuracy": [.5, accuracy]},
            vectors={f"reliability_{name}": [0.0, 4.0, 6.0] for name in ("images", "correct", "confidence")}))
    for name in ("curves", "reliability"):
        axes = draw(folder)[f"{name}-{CELL}"]
        found = {json.loads(line.get_gid().removeprefix(svg.TOLD))[0]: line for line in axes.lines
                 if line.get_gid() and line.get_marker() != "None"}
        assert set(found) == {"kd (temperature=6.0)", "kd (temperature=5.0)", "kd", "ce"}
        for label, line in found.items():
            look = drawing.family_look("baseline" if label == "ce" else "logit")
            assert (line.get_color(), line.get_marker()) == look
        assert [line.get_linestyle() for line in found.values()] == ["-", "--", ":", "-"]


def test_learning_curves_are_means_over_seeds_by_epoch(draw, folder):
    axes = draw(folder)[f"curves-{CELL}"]
    assert lines(axes) == [[pytest.approx([1, half]), pytest.approx([2, 2 * half])] for half in (44.5, 40.5, 39)]


def test_learning_curves_have_the_epochs_of_their_records_and_over_seeds_those_that_all_have(draw, folder):
    for seed, epochs, accuracy in ((2, [1, 4, 6], [.2, .5, .8]), (3, [], [.1, .2, .3, .4, .5, .6])):
        Store(folder).write(record(spec("at", seed), .8, curves={
            "validation_accuracy": accuracy, **({"validation_epoch": epochs} if epochs else {})}))
    Store(folder).write(record(spec("at", 0), .8, curves={  # the last two points of a run of six epochs
        "validation_accuracy": [.6, .7], "validation_epoch": [4.0, 6.0]}))
    axes = draw(folder)[f"curves-{CELL}"]
    assert [pytest.approx([4, 50]), pytest.approx([6, 70])] in lines(axes)


def test_the_curves_of_the_three_best_and_of_the_references_are_named_and_the_others_grey(draw, folder):
    for place, accuracy in enumerate((.90, .92, .91, .895)):
        Store(folder).write(record(spec("kd", 0, temperature=5.0 + place), accuracy,
                                   curves={"validation_accuracy": [accuracy / 2, accuracy]}))
    axes = draw(folder)[f"curves-{CELL}"]
    assert lines(axes, color="#BBBBBB") == [[pytest.approx([1, half]), pytest.approx([2, 2 * half])]
                                            for half in (44.75, 39)]
    assert texts(axes) == ["kd (temperature=6.0)", "kd (temperature=7.0)", "kd (temperature=5.0)", "kd", "ce"]
    heights = [text.xyann[1] for text in axes.texts]  # at the ends of the lines, from top to bottom
    assert heights == sorted(heights, reverse=True) and np.diff(heights).max() < -.02


def test_gains_stand_in_the_line_of_their_family_with_its_median(draw, folder):
    Store(folder).write(record(spec("kd", 0, temperature=9.0), .80))
    axes = draw(folder)["gain-by-family"]
    places = {name: place for place, name in enumerate(ticks(axes.yaxis))}
    assert set(places) == {"logit", "attention"}
    logit, attention = places["logit"], places["attention"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((-2, attention), (0, logit), (8, logit))]
    medians = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "|"}
    assert sorted(medians) == [pytest.approx(p) for p in ((-2, attention), (4, logit))]


def test_the_reference_is_in_view_where_every_method_is_far_above_it(draw, tmp_path):
    for method, accuracy in (("ce", .5), ("kd", .8), ("at", .81)):
        Store(tmp_path).write(record(spec(method), accuracy))
    assert draw(tmp_path)["gain-by-family"].get_xlim()[0] < 0


def test_equal_gains_stand_above_each_other(draw, folder):
    for number in range(3):
        Store(folder).write(record(spec("kd", 0, temperature=9.0 + number), .80 + number / 10_000))
    axes = draw(folder)["gain-by-family"]
    assert sorted(y for x, y in points(axes) if x < 1 and y < .5) == pytest.approx(sorted(LANES))


def test_a_gap_is_a_line_from_the_worst_group_to_the_best(draw, tmp_path):
    store, told = Store(tmp_path), {"worst_group_accuracy": .5, "group_gap": .25}
    store.write(record(teacher_spec(), .9, metrics={**told, "group_gap": .4}, role="teacher"))
    for method in ("ce", "kd"):
        store.write(record(spec(method), .8, metrics=told))
    axes = draw(tmp_path)[f"group-gaps-{CELL}"]
    assert ticks(axes.yaxis) == ["teacher", "ce", "kd"]
    assert lines(axes, linewidth=2) == [pytest.approx(np.array(line)) for line in (
        [[50, 0], [90, 0]], [[50, 1], [75, 1]], [[50, 2], [75, 2]])]
    assert named(axes)[1] == "ce: worst group 50.00 %, group gap 25.00 %"
    assert points(axes) == [(50, 0), (50, 1), (50, 2)]
    assert [text.get_text() for text in axes.texts] == ["40.0", "25.0", "25.0"]


def test_robustness_has_a_mark_for_each_kind_of_image(draw, tmp_path):
    store = Store(tmp_path)
    for run, role, clean in ((teacher_spec(), "teacher", .9), (spec("ce"), "student", .8)):
        metrics = {"clean_accuracy": clean, "corruption_accuracy": clean - .3, "pgd_accuracy": .1}
        store.write(record(run, clean, metrics=metrics, role=role))
    expected = {
        "clean accuracy": [[90, 0], [80, 1]], "corruption accuracy": [pytest.approx([60, 0]), pytest.approx([50, 1])],
        "PGD accuracy": [[10, 0], [10, 1]]}
    for more in ({}, {"pgd_small_accuracy": .4}):  # records of before have no second radius
        store.write(record(spec("ce"), .8, metrics={**metrics, **more}))
        axes = draw(tmp_path)[f"robustness-{CELL}"]
        assert {line.get_label(): line.get_xydata().tolist() for line in axes.lines} == {
            **expected, **({"PGD accuracy, small radius": [[40, 1]]} if more else {})}
    assert "ce: PGD accuracy, small radius 40.00 %" in named(axes)
    assert not {line.get_marker() for line in axes.lines} & {*drawing.MARKERS, drawing.OTHER[1]}  # those of families


def test_accuracies_on_groups_and_under_corruptions_stand_in_figures_under_their_names(draw, tmp_path):
    vectors = {"group_accuracy.tint": [.8, .4], "corruption_accuracy.gaussian_noise": [.6, .5]}
    for run, role in ((teacher_spec(), "teacher"), (spec("ce"), "student")):
        Store(tmp_path).write(record(run, .8, role=role, vectors=vectors, groups={"tint": ["red", "blue"]}))
    drawn = draw(tmp_path)
    groups, corruptions = drawn[f"by-group-tint-{CELL}"], drawn[f"by-corruption-{CELL}"]
    assert ticks(groups.xaxis) == ["red", "blue"] and ticks(groups.yaxis) == ["teacher", "ce"]
    assert [text.get_text() for text in groups.texts] == ["80.0", "40.0", "80.0", "40.0"]
    assert ticks(corruptions.xaxis) == ["gaussian\nnoise"]
    assert [text.get_text() for text in corruptions.texts] == ["55.0", "55.0"]


def test_the_critical_difference_diagram_joins_what_the_test_cannot_tell_apart(draw, tmp_path):
    for cell in range(5):
        for place, method in enumerate(("kd", "ce", "at")):
            Store(tmp_path).write(record(spec(method, dataset=f"digits{cell}"), .9 - place / 10))
    axes = draw(tmp_path)["critical-difference"]
    assert points(axes) == [(1, 0), (2, 1), (3, 2)]
    assert [text.get_text() for text in axes.texts] == ["kd", "ce", "at"]
    assert [[y for _, y in line] for line in lines(axes)] == [pytest.approx([-.2, 1.2]), pytest.approx([.8, 2.2])]
    bars = {x for line in lines(axes) for x, _ in line}
    assert len(bars) == 2 and max(bars) < 1
    assert [line.get_color() for line in axes.lines if line.get_gid()] == [
        drawing.family_look(family)[0] for family in ("logit", "baseline", "attention")]
    assert "5 cells" in axes.get_xlabel() and "1.48" in axes.get_xlabel()  # 2.343 sqrt(3 4 / (6 5))


# Several teachers of one student.

@pytest.fixture
def teachers(tmp_path):
    """Three teachers of rising size and accuracy, of which the second was trained otherwise."""
    for place, (name, accuracy, size) in enumerate((("tiny", .7, 1_000), ("long", .8, 9_000), ("huge", .9, 90_000))):
        recipe = RECIPE.model_copy(update={"epochs": 9}) if name == "long" else RECIPE
        run = teacher_spec(pair=name, recipe=recipe).model_copy(update={"student": Architecture(model=name)})
        Store(tmp_path).write(record(run, accuracy, role="teacher", metrics={"parameters": size}))
        for method, mean in (("ce", .6), ("kd", .65 + .05 * place)):
            for seed in range(3):
                own = spec(method, seed, pair=f"{name}-small").model_copy(update={"teacher": TrainedTeacher(run=run)})
                Store(tmp_path).write(record(own, mean + .01 * seed, metrics={
                    "agreement": .5 + .1 * place, "parameters": 3_000, "deployed_size": 1.0}))
    return tmp_path


def panels(folder):
    board = build(folder, REGISTRY)
    with mpl.rc_context(drawing.STYLE):
        (one,) = [one for one in plots.drawings(board, read_details(Store(folder), board))
                  if one.name.startswith("teachers-")]
    return one, one.figure.axes


def test_students_of_several_teachers_are_drawn_by_the_teachers_size_and_accuracy(teachers):
    one, (size, accuracy, agreement, last) = panels(teachers)
    assert points(size) == [(1_000, pytest.approx(66)), (9_000, pytest.approx(71)), (90_000, pytest.approx(76))]
    assert [x for x, _ in points(accuracy)] == pytest.approx([70, 80, 90])
    assert [y for _, y in points(agreement)] == [y for _, y in points(last)] == pytest.approx([50, 60, 70])
    assert size.get_xscale() == "log" and accuracy.get_xscale() == "linear"
    assert agreement.get_xlim() == size.get_xlim() and last.get_xlim() == accuracy.get_xlim()
    assert "1 tiny-small; 2 long-small; 3 huge-small" in one.description
    assert texts(size) == texts(accuracy) == ["1", "2", "3"]
    assert legend(size) == ["kd", "ce"]
    assert f"kd, taught by long-small: test accuracy 71.00 ± {HALF:.2f} %" in named(size)
    assert len(intervals(size)) == 3


def test_a_teacher_of_another_recipe_is_hollow_and_no_line_goes_through_it(teachers):
    _, (size, *_) = panels(teachers)
    marks = [line.get_markerfacecolor() for line in size.lines if len(line.get_xdata()) == 1 and line.get_gid()]
    assert [mark == "white" for mark in marks] == [False, True, False]
    (joined,) = lines(size, color=drawing.look(1)[0], linewidth=1.2)
    assert [x for x, _ in joined] == [1_000, 90_000]


def test_what_no_teacher_makes_a_difference_to_is_a_level_line_and_the_students_size_a_dotted_one(teachers):
    _, (size, accuracy, agreement, _) = panels(teachers)
    level = [line.get_ydata() for line in accuracy.lines if len(set(line.get_ydata())) == 1
             and len(line.get_ydata()) == 2]
    assert [list(one) for one in level] == [pytest.approx([61, 61])]
    for axes in (size, agreement):
        (dotted,) = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert list(dotted.get_xdata()) == [3_000, 3_000]


def test_without_the_teachers_sizes_accuracies_alone_are_drawn(teachers):
    for found in Store(teachers).read()[0]:
        if found.role == "teacher":
            Store(teachers).write(record(found.spec, found.metrics["test_accuracy"], role="teacher"))
    _, axes = panels(teachers)
    assert len(axes) == 2 and axes[1].get_xlabel() == "teacher's test accuracy, %"


def test_one_teacher_has_no_such_plot(folder, draw):
    assert not any(name.startswith("teachers-") for name in draw(folder))
