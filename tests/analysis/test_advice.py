"""What `kdbench advise` says of records whose answer is known."""

import pytest
from support.profiles import comparison, profile, training
from support.records import REGISTRY, record, spec

from kdbench.analysis.answers.advice import Wishes, _compared, advise
from kdbench.analysis.build import build
from kdbench.analysis.moderated import compare
from kdbench.profile.record import write_profile
from kdbench.results.store import Store

SEEDS = {"ce": (.80, .81, .80), "kd": (.90, .91, .905), "at": (.901, .911, .905)}


def write(folder, **accuracies):
    for method, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            seconds = {"ce": 10.0, "kd": 20.0}.get(method, 30.0)
            Store(folder).write(record(spec(method, seed), accuracy, seconds=seconds))


def profiled(folder, **ratios):
    write_profile(Store(folder), profile("pair", deployment=comparison(student=.002, teacher=.006)))
    for method, ratio in ratios.items():
        write_profile(Store(folder), profile(run=spec(method), training=training(.01 * ratio, ratio, .1)))


def advice(folder, **wishes):
    return advise(build(folder, REGISTRY).cells[0], Wishes(**wishes))


def test_the_cheapest_of_those_that_are_known_to_be_near_the_best_is_advised(tmp_path):
    write(tmp_path, **SEEDS)
    found = advice(tmp_path)
    assert found.method == "kd" and found.excluded == {}
    assert "is -0.07 ±" in found.reasons[0] and "points from the highest, that of at." in found.reasons[0]
    assert any("compared by wall time" in reason for reason in found.reasons)
    profiled(tmp_path, ce=1.0, kd=3.0, at=2.0)  # measured costs count more than the seconds of a busy machine
    assert advice(tmp_path).method == "at"
    assert not any("wall time" in reason for reason in advice(tmp_path).reasons)


def test_cheap_methods_are_not_advised_because_seeds_are_too_few_to_tell_them_from_the_best(tmp_path):
    others = {f"m{i}": (.80 + .02 * (i % 3), .80 + .02 * ((i + 1) % 3), .80 + .02 * (i % 2)) for i in range(12)}
    write(tmp_path, ce=(.80, .815, .80), kd=(.85, .86, .845), **others)
    profiled(tmp_path, ce=1.0, kd=3.0, **dict.fromkeys(others, 1.0))
    cell = build(tmp_path, REGISTRY).cells[0]
    assert "m1" in cell.comparisons.tiers[0]
    found = advise(cell, Wishes())
    assert found.method == "kd" and "no other method is within 1 point" in found.reasons[0]


def test_costs_beyond_what_is_wished_rule_a_method_out_and_so_do_unknown_ones(tmp_path):
    write(tmp_path, **SEEDS)
    found = advice(tmp_path, train_seconds=15.0)
    assert found.method == "ce" and found.excluded == {
        "kd": "20 s of training, more than 15", "at": "30 s of training, more than 15"}
    assert any("plain training" in reason for reason in found.reasons)
    found = advice(tmp_path, train_ratio=2.0)
    assert found.method is None and "kdbench profile" in found.excluded["kd"]
    profiled(tmp_path, ce=1.0, kd=3.0, at=2.0)
    assert advice(tmp_path, train_ratio=2.0).method == "at"
    assert advice(tmp_path, latency_ms=2.0).method == "at"
    assert advice(tmp_path, latency_ms=1.9).method is None


def test_accuracy_under_attack_decides_where_that_is_wished(tmp_path):
    for method, robust in (("ce", (.10, .11, .10)), ("kd", (.20, .20, .22)), ("at", (.61, .60, .60))):
        for seed, accuracy in enumerate(SEEDS[method]):
            Store(tmp_path).write(record(spec(method, seed), accuracy, metrics={"pgd_small_accuracy": robust[seed]}))
    found = advice(tmp_path, robust=True)
    assert found.method == "at" and "is the highest, and no other method is within 1 point of it" in found.reasons[0]
    assert any("+50.00" in reason and "from ce" in reason for reason in found.reasons)


def test_methods_that_see_no_data_are_advised_only_without_data(tmp_path):
    write(tmp_path, **SEEDS)
    for seed, accuracy in enumerate((.50, .51, .505)):
        Store(tmp_path).write(record(spec("at", seed), accuracy, family="data_free"))
    assert advice(tmp_path).method == "kd" and "at" in advice(tmp_path).excluded
    found = advice(tmp_path, data_free=True)
    assert found.method == "at" and found.excluded["kd"] == "it trains on images"


def test_methods_without_data_are_compared_by_the_intervals_of_their_table(tmp_path):
    """Their moderated intervals do not take seeds as blocks, which those of the other methods do."""
    values = {"at": (.50, .52, .50), "dkd": (.40, .42, .44), "dist": (.30, .34, .31)}
    for method, accuracies in values.items():
        for seed, accuracy in enumerate(accuracies):
            Store(tmp_path).write(record(spec(method, seed), accuracy, family="data_free"))
    rows = [row for row in build(tmp_path, REGISTRY).cells[0].rows]
    told = compare({}, {row.label: row.metrics["test_accuracy"] for row in rows}, ["at"], []).to["at"]
    assert _compared(rows, "test_accuracy")["at"] == told
    assert told != compare({row.label: row.metrics["test_accuracy"] for row in rows}, {}, ["at"], []).to["at"]


def test_one_seed_advises_nothing_and_a_method_with_one_is_named_as_not_judged(tmp_path):
    write(tmp_path, ce=(.80,), kd=(.90,))
    found = advice(tmp_path)
    assert found.method is None and "two seeds" in found.reasons[0]
    write(tmp_path, **{**SEEDS, "at": (.99,)})
    found = advice(tmp_path)
    assert found.method == "kd" and "Not judged, since they have one seed: at." in found.reasons


def test_failed_runs_rule_a_method_out(tmp_path):
    write(tmp_path, **SEEDS)
    Store(tmp_path).write(record(spec("kd", 3), status="diverged", reason="diverged at step 3"))
    assert advice(tmp_path).excluded == {"kd": "1 of 4 runs have no result"}


@pytest.mark.parametrize(("size", "told"), [(3.5, True), (1.0, False)])
def test_a_larger_network_is_told(tmp_path, size, told):
    write(tmp_path, ce=SEEDS["ce"])
    for seed, accuracy in enumerate(SEEDS["kd"]):
        Store(tmp_path).write(record(spec("kd", seed), accuracy, metrics={"deployed_size": size}))
    assert ("It deploys a network 3.5 times as large as the plain student." in advice(tmp_path).reasons) is told
