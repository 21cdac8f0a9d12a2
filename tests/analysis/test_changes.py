"""What changed between two folders of results."""

import pytest
from support.folders import finish
from support.records import RECIPE, REGISTRY, record, spec

from kdbench.analysis.answers.changes import changes
from kdbench.errors import UserError
from kdbench.report.terminal import changes_to_text
from kdbench.results.store import Store

SEEDS = {"ce": (.700, .710, .705), "kd": (.720, .731, .726), "at": (.690, .702, .697)}
HERE = {"cpu": "one", "versions": {"torch": "2.6"}, "git_commit": "a" * 40}


def write(folder, rows=SEEDS, dataset="digits", **changes):
    """A folder with these test accuracies by method and seed."""
    for method, accuracies in rows.items():
        for seed, accuracy in enumerate(accuracies):
            Store(folder).write(record(spec(method, seed, dataset), accuracy, **{"environment": HERE, **changes}))
    return folder


def found(first, second):
    return changes((first, second), REGISTRY)


@pytest.fixture
def first(tmp_path):
    return write(tmp_path / "a")


def test_nothing_changed_between_a_folder_and_its_copy(first, tmp_path):
    same = found(first, write(tmp_path / "b"))
    assert same.cells == same.methods == ((), ()) and same.environments == same.sources == {}
    assert all(row.equal and not row.significant and row.p == 1 for row in same.rows) and len(same.rows) == 3
    assert same.bit_equal and (same.reruns.shared, same.reruns.equal) == (9, 9)
    assert same.results[0] == same.results[1]


def test_cells_and_methods_of_one_folder_alone_are_named(first, tmp_path):
    second = write(tmp_path / "b", {"ce": SEEDS["ce"], "dist": SEEDS["kd"]})
    write(second, {"ce": SEEDS["ce"]}, "letters")
    told = found(first, second)
    assert told.cells == ((), ("big-small on letters",))
    assert told.methods == (("kd (big-small on digits)", "at (big-small on digits)"), ("dist (big-small on digits)",))
    assert (told.reruns.shared, told.reruns.only_first, told.reruns.only_second) == (3, 6, 6)


def test_equal_cells_are_compared_and_of_the_rest_those_of_one_pair_and_dataset(first, tmp_path):
    other = RECIPE.model_copy(update={"epochs": 9})
    second, third = write(tmp_path / "b"), tmp_path / "c"
    for folder in (second, third):
        Store(folder).write(record(spec("kd", recipe=other), .9))
    told = found(first, second)
    assert [row.equal for row in told.rows] == [True] * 3
    assert told.cells == ((), ("big-small on digits (recipe.epochs=9, teacher.run.recipe.epochs=9)",))
    told = found(first, third)
    assert told.cells == ((), ()) and [(row.method, row.equal) for row in told.rows] == [("kd", False)]


def test_settings_of_a_method_are_compared_with_equal_ones_whatever_they_are_called(tmp_path):
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    for seed in range(3):
        first.write(record(spec("kd", seed, temperature=8.0), .5))
        for temperature, accuracy in ((4.0, .6), (8.0, .5)):
            second.write(record(spec("kd", seed, temperature=temperature), accuracy))
    told = found(first.folder, second.folder)
    assert [(row.method, row.equal) for row in told.rows] == [("kd", True)]  # called so, since it is its only setting
    assert told.methods == ((), ("kd (big-small on digits)",)) and told.reruns.equal == 3


def test_differences_are_paired_by_seed_tested_with_holms_correction_and_sorted_by_size(first, tmp_path):
    second = write(tmp_path / "b", {"ce": SEEDS["ce"], "kd": (.740, .7505, .7455), "at": (.690, .700, .698)})
    rows = found(first, second).rows
    assert [row.method for row in rows] == ["kd", "at", "ce"]
    kd, at, ce = rows
    assert kd.difference.mean == pytest.approx(.0196667, abs=1e-6) and kd.difference.count == 3
    # By hand: differences .0200, .0195, .0195; t = mean / (s / sqrt(3)) = 118.0 with 2 degrees of freedom.
    assert kd.difference.half_width == pytest.approx(4.302653 * .000288675 / 3**.5, rel=1e-4)
    assert kd.p == pytest.approx(3 * 7.18e-5, rel=.01) and kd.significant  # three rows
    assert not at.equal and not at.significant and at.p == pytest.approx(1) and ce.equal and not ce.significant
    assert at.difference.mean == pytest.approx((0 - .002 + .001) / 3)


def test_a_difference_that_is_the_same_for_all_seeds_is_not_tested_whatever_its_rounding(tmp_path):
    first = write(tmp_path / "a", {"ce": (.80, .914), "kd": (.911, .933)})
    second = write(tmp_path / "b", {"ce": (.82, .934), "kd": (.912, .934)})
    assert [(row.p, row.significant) for row in found(first, second).rows] == [(None, False)] * 2


def test_rows_without_seeds_in_common_have_no_difference_and_stand_last(tmp_path):
    first = write(tmp_path / "a", {"kd": (.5, .6)})
    second = write(tmp_path / "b", {"kd": (.5, .7)})
    for seed in (0, 1):
        Store(first).write(record(spec("at", seed), .5))
        Store(second).write(record(spec("at", 5 + seed), .9))
    rows = found(first, second).rows
    assert [(row.method, row.difference is None, row.p) for row in rows][1] == ("at", True, None)


def test_a_verdict_that_changed_is_told(first, tmp_path):
    second = write(tmp_path / "b", {**SEEDS, "kd": (.700, .7105, .705)})
    rows = {row.method: row.verdicts for row in found(first, second).rows}
    assert rows == {"ce": ("", ""), "kd": ("better", "unclear"), "at": ("worse", "worse")}
    text = " ".join(changes_to_text(found(first, second), ("a", "b"), 120).split())
    assert "better -> unclear" in text and "against ce the verdict changed for 1 (kd)" in text


@pytest.mark.parametrize(("change", "what"), [
    ({"weights": b"x", "accuracy": .5}, "weights, predictions differ"), ({"accuracy": .6}, "1 of 1 metrics differ"),
])
def test_a_rerun_that_is_not_bit_equal_is_named(tmp_path, change, what):
    first, second = Store(tmp_path / "a"), Store(tmp_path / "b")
    for store in (first, second):
        finish(store, spec("ce"))
        finish(store, spec("ce", seed=1000), "trial")
    run = spec("kd")
    finish(first, run)
    finish(second, run, environment={"cpu": "another"}, **change)
    told = found(first.folder, second.folder)
    assert not told.bit_equal and told.reruns.equal == 2
    assert [(one.run, one.what) for one in told.reruns.differing] == [
        (f"{run.id}, kd, seed 0 (big-small on digits)", what)]
    assert f"not bit-equal: {run.id}, kd, seed 0 (big-small on digits): {what}" in changes_to_text(
        told, ("a", "b"), 200)


def test_other_times_and_machines_and_metrics_of_one_alone_are_bit_equal(first, tmp_path):
    second = write(tmp_path / "b", seconds=7.0, environment={"cpu": "another"}, finished="2026-05-05T00:00:00Z",
                   metrics={"ece": .1})
    assert found(first, second).reruns.equal == 9


def test_runs_that_failed_in_one_folder_are_told_and_contradict_nothing(first, tmp_path):
    second = write(tmp_path / "b")
    Store(second).write(record(spec("kd"), status="diverged", reason="loss is NaN"))
    for folder in (first, second):
        Store(folder).write(record(spec("kd", 9), status="timeout", reason="slow"))
    told = found(first, second)
    assert [one.what for one in told.reruns.failed] == ["in B diverged: loss is NaN"] and told.bit_equal
    assert told.reruns.unfinished == 1
    assert [one.what for one in found(second, first).reruns.failed] == ["in A diverged: loss is NaN"]


def test_what_differs_between_environments_and_which_methods_sources_do(first, tmp_path):
    second = write(tmp_path / "b", environment={**HERE, "cpu": "another", "versions": {"torch": "2.7"}})
    write(second, {"kd": SEEDS["kd"]}, environment=HERE, method_digest="b" * 64)
    Store(second).write(record(spec("kd", 9), status="crashed", reason="no", environment={"cpu": "of a failed run"}))
    told = found(first, second)
    assert told.environments == {"cpu": (("one",), ("another", "one")), "torch": (("2.6",), ("2.6", "2.7"))}
    assert told.sources == {"kd": (("a" * 12,), ("b" * 12,))}
    text = changes_to_text(told, ("a", "b"), 120)
    assert "cpu: one in A, another or one in B" in text and "source of 1 method: kd" in text


def test_the_same_folder_twice_or_one_without_results_is_a_user_error(first, tmp_path):
    (tmp_path / "link").symlink_to(first)
    for other, message in ((first, "given twice"), (tmp_path / "link", "are the same folder"),
                           (tmp_path / "absent", "no records here")):
        with pytest.raises(UserError, match=message):
            found(first, other)
