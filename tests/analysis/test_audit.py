"""What a student inherited, added and mended: figures beside the teacher's and the plain student's."""

import math

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats
from support.records import REGISTRY, record, spec, teacher_spec
from support.skewed import DATASET, GAPS, TEACHER_GAP, make

from kdbench.analysis.answers.audit import audit, has_groups, summary
from kdbench.analysis.answers.trend import per_doubling, rows_of
from kdbench.analysis.build import build
from kdbench.analysis.harm import holm, moved_classes
from kdbench.analysis.labels import Sweep, Variant, sweeps
from kdbench.plugins.source import Facts
from kdbench.results.store import Store

KNOWN = {"kd": Facts(idea="", paper=None, conditions=(), defaults={"temperature": 4.0, "alpha": 0.9})}


@pytest.fixture
def cell(tmp_path):
    (found,) = build(make(tmp_path), REGISTRY).cells
    return found


def gap_of(temperature, seed):
    return GAPS[temperature] + seed / 100 + .001 * (-1)**seed


# Measures.

def test_each_figure_is_compared_with_the_teachers_and_with_that_of_plain_training(cell):
    findings = {one.label: one for one in audit(cell)["group_gap"]}
    assert set(findings) == {"ce", "kd", "kd (temperature=1.0)", "kd (temperature=2.0)", "kd (temperature=16.0)"}
    kd = findings["kd"]
    assert kd.value.mean == pytest.approx(.135)
    assert kd.to_teacher.mean == pytest.approx(.135 - TEACHER_GAP)
    assert kd.to_reference.mean == pytest.approx(.135 - .165)
    assert findings["ce"].to_reference is None and findings["ce"].to_teacher.mean == pytest.approx(.065)


def test_the_test_against_the_teacher_is_students_over_the_seeds_with_holms_correction_over_the_methods(cell):
    findings = audit(cell)["group_gap"]
    raw = []
    for one in findings:
        row = next(row for row in cell.rows if row.label == one.label)
        raw.append(stats.ttest_1samp(list(row.metrics["group_gap"].values()), TEACHER_GAP).pvalue)
    assert [one.to_teacher.p for one in findings] == pytest.approx(holm(raw))


def test_less_bias_than_plain_training_is_mended_and_more_than_the_teacher_is_added(cell):
    findings = {one.label: one for one in audit(cell)["group_gap"]}
    assert {label for label, one in findings.items() if one.mended} == {
        "kd", "kd (temperature=2.0)", "kd (temperature=16.0)"}
    assert {label for label, one in findings.items() if one.added} == {
        "ce", "kd", "kd (temperature=1.0)", "kd (temperature=2.0)"}
    assert not any(one.worsened for one in findings.values())
    warm = findings["kd (temperature=16.0)"]
    assert warm.to_teacher.fairer and warm.to_reference.fairer
    said = summary(audit(cell)["group_gap"], TEACHER_GAP)
    assert said[1] == "Worsened against ce: by none."
    assert "kd (temperature=16.0)" in said[0] and "kd (temperature=16.0)" not in said[2]
    assert said[3] == "Fairer than the teacher: kd (temperature=16.0)."


def test_more_bias_than_plain_training_is_worsened_whichever_way_the_metric_goes(tmp_path):
    store = Store(tmp_path)
    for seed in range(4):
        for method, gap, worst in (("ce", .1, .8), ("kd", .2, .7), ("at", .05, .9)):
            noise = seed / 100 + .001 * (seed % 2) * (method == "kd")
            store.write(record(spec(method, seed), .9, metrics={"group_gap": gap + noise,
                                                                "worst_group_accuracy": worst - noise}))
    (cell,) = build(tmp_path, REGISTRY).cells
    for findings in (audit(cell)["group_gap"], audit(cell)["worst_group_accuracy"]):
        told = {one.label: (one.mended, one.worsened) for one in findings}
        assert (told["kd"], told["at"]) == ((False, True), (True, False))
        assert all(one.to_teacher is None for one in findings)


def test_a_cell_without_groups_has_class_measures_alone(tmp_path):
    store = Store(tmp_path)
    for method in ("ce", "kd"):
        store.write(record(spec(method), .9, metrics={"worst_class_accuracy": .5}))
    store.write(record(teacher_spec(), .9, role="teacher"))
    (cell,) = build(tmp_path, REGISTRY).cells
    assert not has_groups(cell) and list(audit(cell)) == ["worst_class_accuracy"]
    assert all(one.to_reference is None and one.to_teacher is None for one in audit(cell)["worst_class_accuracy"])


def test_two_seeds_give_no_interval_to_the_teacher(tmp_path):
    (cell,) = build(make(tmp_path, seeds=2), REGISTRY).cells
    assert all(one.to_teacher.half_width is None for one in audit(cell)["group_gap"])


# Groups and classes.

def test_groups_are_compared_like_classes(cell):
    changes = next(row for row in cell.rows if row.label == "kd").harm.groups["tint"]
    assert [(c.index, c.images) for c in changes] == [(0, 120), (1, 120)]
    assert [c.change for c in changes] == pytest.approx([0, .3])
    assert not changes[0].significant and changes[1].significant
    assert next(row for row in cell.rows if row.is_reference).harm is None


def welch(ours, theirs):
    """The classes of which scipy says so, given accuracies by seed and class, and those on all images."""
    return [k for k in range(ours[0].shape[1])
            if stats.ttest_ind(ours[0][:, k] - ours[1], theirs[0][:, k] - theirs[1], equal_var=False).pvalue < .05]


def test_moved_classes_are_those_of_welchs_test_of_accuracies_less_the_overall_one():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 30)
    members = [np.flatnonzero(labels == k) for k in range(20)]
    shift = .25 * (np.arange(20) % 4 == 0)
    before = generator.random((4, 600)) < .6
    correct = generator.random((5, 600)) < (.6 + shift)[labels]
    of = [(np.stack([one[:, own].mean(1) for own in members], 1), one.mean(1)) for one in (correct, before)]
    assert 0 < len(welch(*of)) < 20
    assert moved_classes(correct, before, members) == welch(*of)
    one = [k for k in range(20) if stats.ttest_1samp(
        of[0][0][:, k] - of[0][1], of[1][0][0, k] - of[1][1][0]).pvalue < .05]
    assert moved_classes(correct, before[:1], members) == one


def test_a_gain_that_all_classes_share_moves_none():
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), 50)
    members = [np.flatnonzero(labels == k) for k in range(10)]
    found = [len(moved_classes(generator.random((5, 500)) < .8, generator.random((5, 500)) < .5, members))
             for _ in range(40)]
    assert np.mean(found) / 10 < .09  # of a test at 5 %


def test_classes_that_moved_are_told_against_plain_training_and_against_the_teacher(cell):
    told = {row.label: row.harm for row in cell.rows if row.harm}
    assert told["kd (temperature=1.0)"].moved == ()
    assert set(told["kd"].moved) >= {4, 5, 6}
    assert 3 in told["kd"].moved_from_teacher


def test_without_the_teachers_answers_nothing_is_said_of_it(tmp_path):
    make(tmp_path)
    store = Store(tmp_path)
    store.write(replace(store.get(teacher_spec(DATASET).id), answers=None))
    (cell,) = build(tmp_path, REGISTRY).cells
    assert all(row.harm.moved_from_teacher is None and row.harm.moved is not None for row in cell.rows if row.harm)


# Sweeps.

def variant(**settings):
    return Variant("kd", tuple(sorted(settings.items())))


def test_settings_that_differ_in_one_number_are_a_sweep_with_the_default_in_its_place():
    names = {variant(): "kd", variant(temperature=1.0): "cold", variant(temperature=9.0): "hot",
             variant(temperature=9.0, alpha=.5): "other"}
    assert sweeps(names, KNOWN) == [Sweep("kd", "temperature", ((1.0, "cold"), (4.0, "kd"), (9.0, "hot")))]


def test_two_settings_and_settings_of_words_or_of_unknown_methods_are_no_sweep():
    assert sweeps({variant(): "kd", variant(temperature=1.0): "cold"}, KNOWN) == []
    assert sweeps({variant(temperature=float(value)): str(value) for value in range(1, 5)}, {}) == []
    words = {variant(mode=mode): mode for mode in "abc"}
    assert sweeps(words, {"kd": Facts(idea="", paper=None, conditions=(), defaults={"mode": "a"})}) == []


def test_a_trend_is_the_mean_over_seeds_of_the_slope_along_the_logarithm(cell):
    (sweep,) = cell.sweeps
    assert [value for value, _ in rows_of(cell, sweep)] == [1, 2, 4, 16]
    slopes = [np.polyfit(np.log2([1, 2, 4, 16]), [gap_of(value, seed) for value in (1.0, 2.0, 4.0, 16.0)], 1)[0]
              for seed in range(4)]
    found = per_doubling(cell, sweep, "group_gap")
    assert found.mean == pytest.approx(np.mean(slopes)) and found.mean < 0
    assert found.half_width == pytest.approx(
        stats.t.ppf(.975, 3) * np.std(slopes, ddof=1) / math.sqrt(4), abs=1e-12)
    assert per_doubling(cell, sweep, "bias_amplification") is None
