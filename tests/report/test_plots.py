"""What is drawn: the numbers in the figures, before they become SVG and PNG."""

import numpy as np
import pytest
from support.profiles import comparison, profile, training
from support.records import REGISTRY, record, spec, teacher_spec

from kdbench.analysis.build import build
from kdbench.analysis.details import read_details
from kdbench.plugins import source
from kdbench.plugins.source import FAMILIES
from kdbench.profile.record import write_profile
from kdbench.report import drawing, plots
from kdbench.results.store import Store

CELL = "big-small-on-digits"
GREY = "#555555"


@pytest.fixture
def draw(monkeypatch):
    """The axes of every plot of a folder, by name."""
    def call(folder):
        figures = {}

        def keep(figure, name, *texts):
            figures[name] = figure

        monkeypatch.setattr(plots, "_finish", keep)
        leaderboard = build(folder, REGISTRY)
        plots.plots(leaderboard, read_details(Store(folder), leaderboard))
        return {name: figure.axes[0] for name, figure in figures.items() if figure is not None}

    return call


@pytest.fixture
def folder(tmp_path):
    """Two seeds of ce and kd, one of at, and a teacher."""
    store = Store(tmp_path)
    for method, seed, accuracy, agreement, seconds in (
            ("ce", 0, .80, .7, 10), ("ce", 1, .82, .7, 10), ("kd", 0, .84, .9, 40), ("kd", 1, .86, .9, 40),
            ("at", 0, .78, .8, 20)):
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
    assert points(axes) == [pytest.approx(p) for p in ((85, 0), (81, 1), (78, 2))]
    half = 100 * 12.706 * .01  # t of one degree of freedom times the standard error of x and x + .02
    bars = [bar.tolist() for container in axes.containers for bar in container.lines[2][0].get_segments()]
    assert bars == [pytest.approx(np.array(bar), abs=.01) for bar in (
        [[85 - half, 0], [85 + half, 0]], [[81 - half, 1], [81 + half, 1]], [[78, 2], [78, 2]])]
    assert [line[0][0] for line in lines(axes, linestyle="--")] == pytest.approx([90, 81])  # the teacher's, and ce's


def test_fidelity_is_drawn_against_accuracy(draw, folder):
    axes = draw(folder)[f"agreement-{CELL}"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((70, 81), (80, 78), (90, 85))]
    assert lines(axes, color=GREY) == []  # agreement is no cost: it has no Pareto front


def test_a_cost_has_the_line_of_what_nothing_cheaper_beats(draw, folder):
    axes = draw(folder)[f"seconds-{CELL}"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((10, 81), (20, 78), (40, 85))]
    (front,) = lines(axes, color=GREY)
    assert front == [pytest.approx(p) for p in ([10, 81], [40, 85])]
    assert axes.get_xscale() == "log"
    assert sorted(text.get_text() for text in axes.texts) == ["ce", "kd"]


def test_one_method_alone_is_not_drawn_against_anything(draw, tmp_path):
    Store(tmp_path).write(record(spec("ce"), .8, metrics={"agreement": .7}))
    assert set(draw(tmp_path)) == {f"accuracy-{CELL}"}


def test_latency_is_that_of_the_network_that_a_method_deploys_beside_the_teacher_s(draw, folder):
    write_profile(Store(folder), profile("pair", deployment=comparison(student=.002, teacher=.006)))
    for method in ("ce", "kd"):
        write_profile(Store(folder), profile(run=spec(method), training=training(.01, 1.0)))
    axes = draw(folder)["latency-digits-cpu"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((2, 81), (2, 85), (6, 90))]
    (front,) = lines(axes, color=GREY)
    assert front == [pytest.approx(p) for p in ([2, 85], [6, 90])]


def test_a_method_far_below_the_others_is_named_and_not_drawn(draw, folder):
    for number in range(4):
        Store(folder).write(record(spec("kd", 0, temperature=5.0 + number), .8 + number / 100))
    Store(folder).write(record(spec("kd", 0, temperature=9.0), .1))
    found = draw(folder)
    assert "far below: kd (temperature=9.0)" in [text.get_text() for text in found[f"seconds-{CELL}"].texts]
    assert min(y for _, y in points(found[f"seconds-{CELL}"])) == pytest.approx(78)
    axes = found[f"accuracy-{CELL}"]
    assert "10.0" in [text.get_text() for text in axes.texts]
    assert axes.get_xlim()[0] < min(x for x, _ in points(axes)) < 78
    assert [text.get_text() for text in found["gain-by-family"].texts] == ["-70"]


def test_classes_are_drawn_as_changes_in_points(draw, folder):
    axes = draw(folder)[f"classes-{CELL}"]
    (image,) = axes.images
    assert ticks(axes.yaxis) == ["kd", "at"]
    assert image.get_array().filled(np.nan).tolist() == [pytest.approx([4, np.nan, 0], nan_ok=True),
                                                         pytest.approx([-2, np.nan, 0], nan_ok=True)]
    low, high = image.get_clim()
    assert low == -high


def test_a_reliability_diagram_has_the_mean_of_each_bin_that_holds_images(draw, folder):
    axes = draw(folder)[f"reliability-{CELL}"]
    assert lines(axes, linestyle="--") == [[[0, 0], [100, 100]]]
    drawn = lines(axes, linestyle="-")
    assert drawn == 3 * [[pytest.approx([62.5, 50]), pytest.approx([100 * 5.5 / 6, 100])]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kd", "ce", "at"]


def test_learning_curves_are_means_over_seeds_by_epoch(draw, folder):
    axes = draw(folder)[f"curves-{CELL}"]
    assert lines(axes) == [[pytest.approx([1, half]), pytest.approx([2, 2 * half])] for half in (42.5, 40.5, 39)]


def test_learning_curves_have_the_epochs_of_their_records_and_over_seeds_those_that_all_have(draw, folder):
    for seed, epochs, accuracy in ((2, [1, 4, 6], [.2, .5, .8]), (3, [], [.1, .2, .3, .4, .5, .6])):
        Store(folder).write(record(spec("at", seed), .8, curves={
            "validation_accuracy": accuracy, **({"validation_epoch": epochs} if epochs else {})}))
    Store(folder).write(record(spec("at", 0), .8, curves={  # the last two points of a run of six epochs
        "validation_accuracy": [.6, .7], "validation_epoch": [4.0, 6.0]}))
    axes = draw(folder)[f"curves-{CELL}"]
    assert [pytest.approx([4, 50]), pytest.approx([6, 70])] in lines(axes)


def test_the_curves_of_the_three_best_and_of_the_references_are_named_and_the_others_grey(draw, folder):
    for place, accuracy in enumerate((.90, .92, .91, .89)):
        Store(folder).write(record(spec("kd", 0, temperature=5.0 + place), accuracy,
                                   curves={"validation_accuracy": [accuracy / 2, accuracy]}))
    axes = draw(folder)[f"curves-{CELL}"]
    assert lines(axes, color="#BBBBBB") == [[pytest.approx([1, half]), pytest.approx([2, 2 * half])]
                                            for half in (44.5, 39)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "kd (temperature=6.0)", "kd (temperature=7.0)", "kd (temperature=5.0)", "kd", "ce"]


def test_gains_stand_in_the_line_of_their_family_with_its_median(draw, folder):
    Store(folder).write(record(spec("kd", 0, temperature=9.0), .80))
    axes = draw(folder)["gain-by-family"]
    places = {name: place for place, name in enumerate(ticks(axes.yaxis))}
    assert set(places) == {"logit", "attention"}
    logit, attention = places["logit"], places["attention"]
    assert sorted(points(axes)) == [pytest.approx(p) for p in ((-2, attention), (0, logit), (4, logit))]
    medians = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "|"}
    assert sorted(medians) == [pytest.approx(p) for p in ((-2, attention), (2, logit))]


def test_a_gap_is_a_line_from_the_worst_group_to_the_best(draw, tmp_path):
    store, told = Store(tmp_path), {"worst_group_accuracy": .5, "group_gap": .25}
    store.write(record(teacher_spec(), .9, metrics={**told, "group_gap": .4}, role="teacher"))
    for method in ("ce", "kd"):
        store.write(record(spec(method), .8, metrics=told))
    axes = draw(tmp_path)[f"group-gaps-{CELL}"]
    assert ticks(axes.yaxis) == ["teacher", "ce", "kd"]
    assert lines(axes) == [pytest.approx(np.array(line)) for line in (
        [[50, 0], [90, 0]], [[50, 1], [75, 1]], [[50, 2], [75, 2]])]
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


def test_the_critical_difference_diagram_joins_what_the_test_cannot_tell_apart(draw, tmp_path):
    for cell in range(5):
        for place, method in enumerate(("kd", "ce", "at")):
            Store(tmp_path).write(record(spec(method, dataset=f"digits{cell}"), .9 - place / 10))
    axes = draw(tmp_path)["critical-difference"]
    assert points(axes) == [(1, 0), (2, 1), (3, 2)]
    assert [text.get_text() for text in axes.texts] == ["kd", "ce", "at"]
    assert [[y for _, y in line] for line in lines(axes)] == [pytest.approx([-.2, 1.2]), pytest.approx([.8, 2.2])]
    assert "5 cells" in axes.get_xlabel() and "1.48" in axes.get_xlabel()  # 2.343 sqrt(3 4 / (6 5))
