"""Parts of a plan: which run is in which, and what commands for several parts do together."""

import os
import subprocess
import sys
import threading
from collections import Counter

import pytest
from rich.console import Console
from support.matrices import assisted, plugin, smoke
from support.records import RECIPE

from kdbench.errors import UserError
from kdbench.execution import shard as module
from kdbench.execution.display import PlainDisplay
from kdbench.execution.matrix import Matrix
from kdbench.execution.pool import LocalPool
from kdbench.execution.shard import Shard, Share, owners, weight
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.suites.plan import Selection, expand
from kdbench.suites.suite import load_suite

BIG = ("cpu", {"seeds": 5})  # two pairs, several methods of all families: some hundred runs
PLANS = {"smoke": smoke("ce", "kd", "ban", seeds=3), "assisted": assisted("takd", seeds=2), "one": smoke("ce", seeds=1)}


@pytest.fixture(scope="module")
def many():
    suite, selection = BIG
    return expand(load_suite(suite), Registry(), Selection(**selection))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_run_and_teacher_is_in_exactly_one_part(many, count):
    for plan in (many, *PLANS.values()):
        parts = [Share.of(plan, Shard(number, count)).part_of(plan) for number in range(1, count + 1)]
        for runs in ("teachers", "students"):
            dealt = Counter(spec.id for part in parts for spec in getattr(part, runs))
            assert dealt == Counter(spec.id for spec in getattr(plan, runs))


@pytest.mark.parametrize("count", [2, 3, 7, 16])
def test_no_two_parts_differ_by_more_than_the_heaviest_run(many, count):
    weights = {spec.id: weight(spec, many) for spec in (*many.teachers, *many.students)}
    loads = Counter()
    for run, number in owners(many, count).items():
        loads[number] += weights[run]
    assert len(loads) == count and max(loads.values()) - min(loads.values()) <= max(weights.values())


def test_the_seeds_of_a_method_come_into_as_many_parts_as_possible(many):
    """A method may take ten times as long as it weighs."""
    owner = owners(many, 5)
    where = {}
    for spec in many.students:
        where.setdefault((spec.method, spec.pair), []).append(owner[spec.id])
    assert all(len(parts) == 5 for parts in where.values())
    assert sum(len(set(parts)) == 5 for parts in where.values()) > .9 * len(where)


def test_teachers_come_into_as_many_parts_as_possible(many):
    owner = owners(many, len(many.teachers))
    assert len({owner[spec.id] for spec in many.teachers}) == len(many.teachers) > 2


def test_other_processes_and_the_order_of_a_plan_make_no_difference(many):
    code = ("from kdbench.execution.shard import owners\nfrom kdbench.plugins.registry import Registry\n"
            "from kdbench.suites.plan import Selection, expand\nfrom kdbench.suites.suite import load_suite\n"
            f"plan = expand(load_suite({BIG[0]!r}), Registry(), Selection(**{BIG[1]!r}))\n"
            "print(sorted(owners(plan, 7).items()))")
    told = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                           capture_output=True, text=True).stdout.strip() for seed in ("1", "2")}
    backwards = module.replace(many, students=many.students[::-1], teachers=many.teachers[::-1])
    assert told == {str(sorted(owners(many, 7).items()))} == {str(sorted(owners(backwards, 7).items()))}


def test_what_learns_from_a_teacher_weighs_more_and_so_do_epochs():
    plan = smoke("ce", "kd")
    ce, kd = (next(spec for spec in plan.students if spec.method == name) for name in ("ce", "kd"))
    longer = kd.model_copy(update={"recipe": kd.recipe.model_copy(update={"epochs": 4})})
    assert weight(kd, plan) == weight(ce, plan) * 23 / 10 and weight(longer, plan) == 2 * weight(kd, plan)
    assert RECIPE.epochs == 2


@pytest.mark.parametrize("text", ["0/3", "4/3", "a/b", "3", "", "1/0", "-1/3", "1/2/3", "1/99999", "1.5/3", "9" * 500])
def test_what_is_no_part_is_one_line(text):
    with pytest.raises(UserError) as error:
        Shard.read(text)
    assert "expected NUMBER/COUNT, such as 3/16" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_part_is_read_with_its_number_from_one_to_the_count():
    assert (Shard.read("3/16"), Shard.read(" 16 / 16 "), str(Shard.read("1/1"))) == (Shard(3, 16), Shard(16, 16), "1/1")


# Running.

def run(plan, out, cache, shard=None, *, patience=120.0):
    said = []
    share = shard and Share.of(plan, Shard.read(shard), patience)
    matrix = Matrix(plan, out, CacheFolder(cache), said.append, share=share)
    jobs = matrix.pending()
    pool = LocalPool(1)
    pool.start()
    return matrix.run(jobs, {}, pool, PlainDisplay(Console(quiet=True), 1)), said


def results(folder):
    """What runs give that does not depend on when and where they were made."""
    records, problems = Store(folder).read()
    assert not problems
    return {one.run_id: (one.role, one.status, one.weights_sha256, one.predictions_sha256, dict(one.metrics))
            for one in records}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The plan, and the results of it in one command."""
    plan, folder = PLANS["smoke"], tmp_path_factory.mktemp("whole")
    run(plan, folder / "out", folder / "cache")
    assert {one[1] for one in results(folder / "out").values()} == {"ok"}
    return plan, results(folder / "out")


@pytest.mark.slow
def test_two_parts_at_the_same_time_in_one_folder_give_the_bits_of_the_whole(tmp_path, whole):
    plan, expected = whole
    ended = {}

    def work(shard):
        ended[shard] = run(plan, tmp_path / "out", tmp_path / "cache", shard)[0]

    threads = [threading.Thread(target=work, args=(shard,)) for shard in ("1/2", "2/2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert [one.waiting + one.failed for one in ended.values()] == [0, 0]
    assert sum(one.trained for one in ended.values()) == len(plan.students)
    assert results(tmp_path / "out") == expected
    assert len(list(Store(tmp_path / "out").files.plans.iterdir())) == len(plan.students) + len(plan.teachers)


@pytest.mark.slow
def test_two_parts_one_after_the_other_in_folders_of_their_own_give_the_bits_of_the_whole(tmp_path, whole):
    plan, expected = whole
    trained = {}
    for shard in ("1/2", "2/2", "1/2", "2/2"):
        folder = tmp_path / shard.replace("/", "-")
        before = set(results(tmp_path / "cache" / "teachers"))
        outcome, said = run(plan, folder, tmp_path / "cache", shard, patience=0)
        for teacher in set(results(tmp_path / "cache" / "teachers")) - before:
            trained[teacher] = shard
        if outcome.waiting:
            assert any("not begun: the teachers are not there: teacher " in line and "shard " in line for line in said)
    owner = owners(plan, 2)
    assert trained == {spec.id: f"{owner[spec.id]}/2" for spec in plan.teachers} and len(set(trained.values())) == 2
    assert {**results(tmp_path / "1-2"), **results(tmp_path / "2-2")} == expected
    assert outcome.waiting == 0 and outcome.trained == 0


def test_an_assistant_of_one_part_waits_for_its_teacher_of_another(tmp_path):
    plan = PLANS["assisted"]
    teacher, assistant = plan.teachers
    owner = owners(plan, 2)
    assert owner[teacher.id] != owner[assistant.id]
    first, second = f"{owner[assistant.id]}/2", f"{owner[teacher.id]}/2"
    for shard in (first, second, first, second):  # before its teacher, the assistant cannot begin
        outcome, _ = run(plan, tmp_path / "out", tmp_path / "cache", shard, patience=0)
        assert outcome.failed == 0
    assert {one[1] for one in results(tmp_path / "out").values()} == {"ok"}
    assert {spec.id for spec in (*plan.teachers, *plan.students)} == set(results(tmp_path / "out"))


def test_a_part_whose_teacher_does_not_come_says_whom_it_waits_for_and_gives_up(tmp_path):
    plan = smoke("kd", seeds=[0, 1])
    (teacher,) = plan.teachers
    other = 3 - owners(plan, 2)[teacher.id]
    outcome, said = run(plan, tmp_path / "out", tmp_path / "cache", f"{other}/2", patience=.5)
    assert (outcome.trained, outcome.failed, outcome.waiting) == (0, 0, 2)
    waiting, given_up = said
    assert waiting.startswith("2 runs are waiting for teacher resnet_cifar  tiny  synthetic  seed 1000 (shard "
                              f"{3 - other}/2, ")
    assert "not begun" in waiting and "--wait-for-teachers" in waiting
    assert "the same command continues when they are" in given_up
    assert Store(tmp_path / "out").read() == ([], []) and Store(tmp_path / "cache" / "teachers").read() == ([], [])


def test_a_whole_run_and_a_part_do_not_write_into_one_folder_at_the_same_time(tmp_path):
    store = Store(tmp_path)
    with store.lock("1-of-2"):
        with store.lock("2-of-2"):
            pass
        with pytest.raises(UserError, match="in use by another"), store.lock("1-of-2"):
            pass
        with pytest.raises(UserError, match="in use by another"), store.lock():
            pass
    with store.lock(), pytest.raises(UserError, match="in use by another"), store.lock("1-of-2"):
        pass


def test_a_part_leaves_alone_what_another_part_is_just_writing(tmp_path):
    (tmp_path / "records").mkdir()
    young, old = tmp_path / "records" / ".a.json.1-2.tmp", tmp_path / "records" / ".b.json.1-2.tmp"
    young.touch()
    old.touch()
    os.utime(old, (1, 1))
    with Store(tmp_path).lock("1-of-2"):
        assert young.exists() and not old.exists()


# Waiting, by a clock of the test.

class Job:
    def __init__(self, name, *needs):
        self.id, self.needs = name, needs

    def teachers(self):
        return self.needs

    def __str__(self):
        return self.id


@pytest.fixture
def clock(monkeypatch):
    """Time passes only while somebody sleeps; the list of how long."""
    slept = []
    monkeypatch.setattr(module, "time", type("Time", (), {
        "monotonic": lambda: sum(slept), "sleep": slept.append}))
    return slept


def turns(jobs, states, patience=10.0, limit=100):
    """The turns and what was said, where `states` has the states of the teachers at each look; the last one stays."""
    said, looks = [], Counter()
    foreign = [Job(name) for name in states]

    def state(job):
        looks[job.id] += 1
        return states[job.id][min(looks[job.id], len(states[job.id])) - 1]

    share = Share(Shard(1, 3), {name: 2 for name in states}, patience)
    return [[job.id for job in turn] for turn in share.turns(jobs, foreign, state, said.append)], said


def test_runs_begin_as_their_teachers_come(clock):
    jobs = [Job("a", "own"), Job("b", "far"), Job("c", "far", "near")]
    found, said = turns(jobs, {"near": ["at work", "there"], "far": ["not begun", "not begun", "at work", "there"]})
    assert found == [["a"], ["b", "c"]]
    assert any("far (shard 2/3, not begun)" in line for line in said)


def test_as_long_as_somebody_is_at_work_on_a_teacher_nobody_gives_up(clock):
    found, said = turns([Job("a", "far")], {"far": ["not begun"], "near": ["at work"] * 40 + ["there"]})
    assert found == [] and sum(clock) == pytest.approx(41 * module.LOOK_EVERY + 10, abs=2 * module.LOOK_EVERY)
    assert len(said) == 2 and "not begun: the teachers are not there" in said[-1]


def test_a_teacher_that_has_come_is_not_looked_at_again(clock):
    looks = Counter()

    def state(job):
        looks[job.id] += 1
        return "there" if job.id == "near" or looks[job.id] == 20 else "at work"

    share = Share(Shard(1, 3), {"near": 2, "far": 2}, 10.0)
    assert len(list(share.turns([Job("a", "near", "far")], [Job("near"), Job("far")], state, print))) == 1
    assert looks == {"near": 1, "far": 20}


def test_a_teacher_that_failed_is_not_waited_for(clock):
    found, said = turns([Job("a", "far"), Job("b")], {"far": ["at work", "failed: crashed: oh"]})
    assert found == [["b"]] and "failed: crashed: oh" in said[-1] and sum(clock) == 0


def test_runs_whose_own_teacher_failed_fail_with_its_reason_also_in_a_later_turn(tmp_path, monkeypatch):
    """`ban` needs two teachers: the other part's, which comes, and one of its own, which fails."""
    plan = smoke("ban", seeds=[0])
    share = Share(Shard(1, 2), {spec.id: 1 + (spec.student != plan.students[0].student) for spec in (
        *plan.teachers, *plan.students)})
    own = next(spec for spec in plan.teachers if share.has(spec.id))
    bad = plugin(tmp_path, "raise ValueError('no')", "bad")
    plan = module.replace(plan, methods={**plan.methods, "ce": smoke("bad", plugins=[bad]).methods["bad"]})
    matrix = Matrix(plan, tmp_path / "out", CacheFolder(tmp_path / "cache"), print, share=share)
    jobs = matrix.pending()
    looks = iter(["not begun", "there"])
    monkeypatch.setattr(matrix, "_state", lambda *_: next(looks))
    pool = LocalPool(1)
    pool.start()
    outcome = matrix.run(jobs, {}, pool, PlainDisplay(Console(quiet=True), 1))
    found = Store(tmp_path / "out").get(plan.students[0].id)
    assert outcome.failed == 1 and isinstance(found, Record)
    assert found.reason.startswith(f"its teacher, run {own.id}, failed: ")
