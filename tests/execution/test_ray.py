"""Runs as tasks of a Ray cluster, with the cluster played by the test; tests/cluster/ has a real one."""

import pickle
import subprocess
import sys
import types
from dataclasses import replace

import pytest
from support.matrices import run_all, smoke, students, weights
from support.records import record, spec

from kdbench.errors import UserError
from kdbench.execution.cluster import results as late
from kdbench.execution.engines import alone, make_executor
from kdbench.execution.matrix import Matrix, Training
from kdbench.execution.pool import LocalPool
from kdbench.execution.ray import link, node, options
from kdbench.execution.ray import pool as ray_pool
from kdbench.execution.ray.driver import Began, Driver, Ended, Lost, Nodes, Refused, Submit, _refusal
from kdbench.execution.ray.node import run_errand
from kdbench.execution.ray.options import Options, read_options
from kdbench.folders import CacheFolder

NODE = {"CPU": 2.0, "memory": 8e9, "object_store_memory": 1e9, "node:10.0.0.1": 1.0}


class Played:
    """A link with a cluster that does tasks at once, here. It loses them as `losses` say, one after another; a loss
    with the reason "late" comes after the task was done, and "never" means that no node begins it."""

    def __init__(self, offers=(NODE,)):
        self.offers, self.losses, self.submitted, self.open, self.stopped = list(offers), [], [], [], 0

    def send(self, message):
        self.submitted.append(message)
        self.open.append(message)

    def events(self, seconds):
        for message in list(self.open):
            loss = self.losses.pop(0) if self.losses else None
            if loss and loss.reason == "never":
                self.losses.insert(0, loss)
                return
            self.open.remove(message)
            yield Began(message.task, "node1")
            if loss is None or loss.reason == "late":
                *_, (what, text) = run_errand(message.versions, message.content)
                if what == "refused":
                    raise UserError(text)
            yield Ended(message.task, text) if loss is None else replace(loss, task=message.task)

    def stop(self):
        self.stopped += 1


@pytest.fixture
def cluster(monkeypatch):
    found = Played()
    monkeypatch.setattr(ray_pool.RayPool, "_connect", lambda self: found)
    monkeypatch.setattr(options, "find_spec", lambda name: True)
    return found


def pool_for(out, **settings):
    return ray_pool.RayPool(out, **{"options": Options(), "say": lambda text: None, **settings})


def run(plan, out, cache, pool=None):
    said = []
    return run_all(plan, out, cache, pool or pool_for(out, say=said.append), said)


def test_teachers_come_first_and_the_results_are_those_of_local_runs(tmp_path, cluster):
    plan = smoke("ce", "kd")
    local = LocalPool(2)
    local.start()
    run(plan, tmp_path / "local", tmp_path / "cache", local)
    summary, _ = run(plan, tmp_path / "out", tmp_path / "other")
    assert (summary.trained, summary.failed) == (2, 0)
    assert weights(tmp_path / "out") == weights(tmp_path / "local")
    assert [pickle.loads(one.content).job.role for one in cluster.submitted] == ["teacher", "student", "student"]
    assert cluster.stopped == 1


def test_a_lost_run_is_tried_again_as_often_as_retries_say(tmp_path, cache, cluster):
    plan = smoke("ce")
    run(plan, tmp_path / "before", cache)
    cluster.losses = [Lost("", "its node node1 died")]
    summary, said = run(plan, tmp_path / "out", cache)
    assert summary.trained == 1 and any("its node node1 died; it is tried again" in line for line in said)
    cluster.losses = [Lost("", "its node node1 died")] * 2
    summary, _ = run(plan, tmp_path / "again", cache)
    (record,) = students(tmp_path / "again").values()
    assert summary.failed == 1 and (record.status, record.reason) == ("crashed", "crashed: its node node1 died")


def test_a_run_is_tried_again_after_each_loss_in_which_it_has_no_part(tmp_path, cache, cluster):
    cluster.losses = [Lost("", "preempted", blameless=True)] * 4
    summary, _ = run(smoke("ce"), tmp_path, cache, pool_for(tmp_path, retries=0))
    assert (summary.trained, summary.failed) == (1, 0)


def test_a_cancelled_run_fails_and_its_students_with_it(tmp_path, cluster):
    cluster.losses = [Lost("", "its Ray task was cancelled", final=True)]
    summary, _ = run(smoke("kd"), tmp_path / "out", tmp_path / "cache")
    (record,) = students(tmp_path / "out").values()
    assert summary.failed == 1 and "its teacher" in record.reason and "was cancelled" in record.reason
    assert len(cluster.submitted) == 1


def test_a_run_that_was_lost_on_its_last_step_is_not_repeated(tmp_path, cache, cluster):
    plan = smoke("ce")
    run(plan, tmp_path / "before", cache)
    submitted, cluster.losses = len(cluster.submitted), [Lost("", "late")]
    summary, _ = run(plan, tmp_path / "out", cache, pool_for(tmp_path / "out", retries=0))
    assert (summary.trained, summary.failed) == (1, 0) and len(cluster.submitted) == submitted + 1


def test_a_node_does_not_repeat_what_another_one_has_done_meanwhile(tmp_path, cache, cluster, monkeypatch):
    run(smoke("ce"), tmp_path, cache)
    errand = cluster.submitted[-1]
    monkeypatch.setattr(node, "LocalPool", None)
    assert [what for what, _ in run_errand(errand.versions, errand.content)] == ["began", "ended"]


def test_no_more_runs_are_sent_at_a_time_than_workers(tmp_path, cache, cluster):
    cluster.losses = [Lost("", "never")]
    jobs = Matrix(smoke("ce", "label_smoothing", seeds=[0, 1]), tmp_path, CacheFolder(cache), print).pending()
    seen = []

    def watch(running, waiting):
        seen.append((len(cluster.open), len(running), waiting))
        cluster.losses = []

    assert len(list(pool_for(tmp_path, workers=1).run(jobs, Training(), watch))) == len(jobs)
    assert seen[0] == (1, 0, len(jobs)) and max(open_ for open_, *_ in seen) <= 1


def test_whoever_stops_early_ends_the_connection(tmp_path, cache, cluster):
    jobs = Matrix(smoke("ce"), tmp_path, CacheFolder(cache), print).pending()

    def interrupt(running, waiting):
        raise KeyboardInterrupt

    cluster.losses = [Lost("", "never")]
    with pytest.raises(KeyboardInterrupt):
        list(pool_for(tmp_path).run(jobs, Training(), interrupt))
    assert cluster.stopped == 1


def test_what_no_node_offers_is_said_at_once_and_ends_the_command_after_a_wait(tmp_path, cache, cluster):
    cluster.losses, said = [Lost("", "never")], []
    asked = Options(num_gpus=2.0, wait=0.05)
    with pytest.raises(UserError, match=r"--ray num_gpus=2: no node offers that for a run; the cluster has 1 node with "
                                        r"CPU 2, memory 8\.0GB$"):
        run(smoke("ce"), tmp_path, cache, pool_for(tmp_path, options=asked, say=said.append))
    assert "given up if none comes within 0.05 seconds" in said[0]


def test_a_node_that_comes_in_time_gets_the_runs_that_waited_for_it(tmp_path, cache, cluster):
    cluster.losses = [Lost("", "never")]
    jobs = Matrix(smoke("ce"), tmp_path, CacheFolder(cache), print).pending()

    def comes(running, waiting):
        cluster.offers.append({**NODE, "GPU": 1.0})
        cluster.losses = []

    pool = pool_for(tmp_path, options=Options(num_gpus=1.0, wait=30.0))
    assert {record.status for _, record in pool.run(jobs, Training(), comes)} == {"ok"}


def test_a_result_that_a_shared_folder_shows_late_is_waited_for(monkeypatch):
    monkeypatch.setattr(late, "LOOK_SECONDS", 0.0)
    before, new = record(spec(), 0.5), record(spec(), 0.6)
    shown = iter([None, before, before, new])
    work = types.SimpleNamespace(result=lambda job: next(shown))
    assert late.seen_result(None, work, lambda: late.fingerprint(new)) is new


def test_a_result_that_does_not_come_is_a_failure_that_says_so(monkeypatch):
    monkeypatch.setattr(late, "VISIBLE_SECONDS", -1.0)
    work = types.SimpleNamespace(result=lambda job: None, fail=lambda job, status, reason: (status, reason))
    assert late.seen_result(None, work, lambda: "abc") == ("crashed", "crashed: it left no readable record: none")


# On a node.

def errand_of(cluster):
    return pickle.loads(cluster.submitted[-1].content)


def test_other_versions_and_folders_that_are_not_shared_are_named(tmp_path, cache, cluster, monkeypatch):
    run(smoke("ce"), tmp_path, cache)
    monkeypatch.setattr(node, "SHARED_SECONDS", 0.0)
    sent, errand = cluster.submitted[-1], errand_of(cluster)
    assert str(tmp_path / ".lock") in errand.shared and str(cache) in errand.shared
    ((what, text),) = run_errand({**sent.versions, "torch": "1.0"}, sent.content)
    assert what == "refused" and "instead of 1.0" in text
    elsewhere = replace(errand, shared=("/nowhere/runs",))
    ((what, text),) = run_errand(sent.versions, pickle.dumps(elsewhere))
    assert what == "refused" and "/nowhere/runs is not there: this folder must be one that all nodes share" in text


def test_a_node_needs_the_same_versions_before_it_reads_what_it_was_sent():
    assert [what for what, _ in run_errand({"kdbench": "0.0"}, b"of another version")] == ["refused"]


# The process that is connected with Ray.

def exceptions():
    """Ray's, by name."""
    base = type("RayError", (Exception,), {})
    names = ("NodeDiedError", "LocalRayletDiedError", "TaskCancelledError", "OutOfMemoryError", "WorkerCrashedError")
    return types.SimpleNamespace(RayError=base, **{name: type(name, (base,), {}) for name in names})


class FakeRay:
    """Ray with one task, which tells `words`; an exception among them is raised."""

    def __init__(self, *words, nodes=()):
        self.words, self.known, self.exceptions = list(words), list(nodes), exceptions()

    def remote(self, function):
        self.asked = {}
        handle = types.SimpleNamespace(remote=lambda *arguments: iter(range(len(self.words))))
        return types.SimpleNamespace(options=lambda **asked: self.asked.update(asked) or handle)

    def get(self, number):
        if isinstance(self.words[number], str):
            raise getattr(self.exceptions, self.words[number])("first line\nthe last line")
        return self.words[number]

    def nodes(self):
        return self.known


class Told(list):
    send = list.append


def told(ray, looks=0):
    """What the parent is told of one task."""
    driver = Driver(ray, Told())
    driver._submit(Submit("run", "kdbench run", {"CPU": 1.0, "GPU": 0.5, "memory": 1e9, "fast": 1.0}, {}, b""))
    while driver.tasks:
        driver._hear(next(iter(driver.tasks)))
    for _ in range(looks):
        driver.looked = -100.0
        driver._look()
    return [one for one in driver.connection if not isinstance(one, Nodes)]


BEGAN = ("began", "node7", "id7")


def test_a_task_asks_for_its_resources_and_ray_does_not_try_it_again():
    ray = FakeRay(BEGAN, ("ended", "abc", "id7"))
    assert told(ray) == [Began("run", "node7"), Ended("run", "abc")]
    assert ray.asked == {"name": "kdbench run", "num_cpus": 1.0, "num_gpus": 0.5, "memory": 10**9,
                         "resources": {"fast": 1.0}, "max_retries": 0, "num_returns": "streaming"}


@pytest.mark.parametrize(("error", "reason", "final"), [
    ("OutOfMemoryError", "its Ray task on node7 was killed by Ray, since its node had no memory left", False),
    ("WorkerCrashedError", "its Ray task on node7 died with its worker", False),
    ("TaskCancelledError", "its Ray task on node7 was cancelled", True),
    ("RayError", "its Ray task on node7 failed: the last line", False),
])
def test_what_ray_says_of_a_lost_task_is_one_line(error, reason, final):
    _, lost = told(FakeRay(BEGAN, error))
    assert lost.reason.startswith(reason) and (lost.final, lost.blameless) == (final, False)


@pytest.mark.parametrize(("death", "blameless"), [(1, True), (2, False), (3, True)])
def test_a_task_has_no_part_in_the_end_of_a_node_that_was_stopped_or_preempted(death, blameless):
    alive = {"NodeID": "id7", "Alive": True, "Resources": NODE}
    dead = {**alive, "Alive": False, "DeathReason": death, "DeathReasonMessage": "spot"}
    assert told(FakeRay(BEGAN, "NodeDiedError", nodes=[alive]), looks=1) == [Began("run", "node7")]  # Ray knows later
    assert told(FakeRay(BEGAN, "NodeDiedError", nodes=[dead]), looks=1) == [
        Began("run", "node7"), Lost("run", "its node node7 died: spot", blameless=blameless)]


def test_a_task_that_had_not_begun_has_no_part_in_the_end_of_its_node():
    (lost,) = told(FakeRay("NodeDiedError"))
    assert lost.blameless


@pytest.mark.parametrize("words", ["LocalRayletDiedError", ("refused", "node7: x", "id7")])
def test_what_no_task_can_survive_ends_the_command(words):
    assert isinstance(told(FakeRay(words))[0], Refused)


def test_nodes_are_told_again_only_when_they_changed():
    driver = Driver(FakeRay(nodes=[{"NodeID": "a", "Alive": True, "Resources": NODE}]), Told())
    for _ in range(2):
        driver.looked = -100.0
        driver._look()
    assert driver.connection == [Nodes([NODE]), Nodes(None)]


@pytest.mark.parametrize(("address", "error", "said"), [
    ("auto", ConnectionError("Could not find any running Ray instance. Please"),
     "--executor ray: no Ray cluster is found from this machine: `ray start --head`"),
    ("h:1", ConnectionRefusedError(111, "Connection refused"), "--ray address=h:1: no Ray cluster answers there"),
    ("h:1", RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0"),
     "--ray address=h:1: Version mismatch: The cluster was started with: Ray: 2.9.0; all machines need the same Ray"),
    ("h:1", TimeoutError("timed out"), "no Ray cluster answers there"),
    ("h:1", ConnectionError(), "cannot connect; the command is started on a machine of the cluster, by its Ray"),
])
def test_why_there_is_no_connection_is_one_line(address, error, said):
    assert said in _refusal(address, error)


def test_an_address_of_the_environment_is_named_as_such(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "h:1")
    assert _refusal("h:1", TimeoutError("timed out")).startswith("RAY_ADDRESS=h:1: ")


# The link with that process.

@pytest.mark.parametrize(("code", "said"), [
    ("import os; os.write(2, b'[2026-11-26 07:16:57,264 E 97 98] rpc.h:204: the reason. And more.\\n'); os._exit(1)",
     "connection to the cluster broke: the reason; what is finished is kept"),
    ("import os; os._exit(7)", "broke: exit code 7"),
    ("from kdbench.execution.ray.driver import *; Connection(int(sys.argv[1])).send(Refused('no cluster'))",
     "^no cluster$"),
])
def test_a_connection_that_breaks_is_one_line(monkeypatch, code, said):
    monkeypatch.setattr(link, "DRIVE", code)
    found = link.Link("auto")
    with pytest.raises(UserError, match=said):
        found.wait_for_connection()
    found.stop()


def test_a_cluster_that_is_silent_for_long_is_given_up(monkeypatch):
    monkeypatch.setattr(link, "DRIVE", "sys.stdin = open(sys.argv[2]); import time; time.sleep(60)")
    monkeypatch.setattr(link, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(link, "STOP_SECONDS", 0.1)
    found = link.Link("/dev/null")
    with pytest.raises(UserError, match="has not answered for 0 seconds"):
        found.wait_for_connection()
    found.stop()
    assert found._process.returncode


def test_the_process_ends_with_the_command(monkeypatch):
    monkeypatch.setattr(link, "DRIVE", "from kdbench.execution.ray.driver import *; there = Connection("
                        "int(sys.argv[1])); there.send(Nodes([{'CPU': 1.0}])); there.poll(None)")
    found = link.Link("auto")
    found.wait_for_connection()
    assert found.offers == [{"CPU": 1.0}]
    found.stop()
    assert found._process.returncode == 0


# Options.

def test_options_are_read(cluster):
    found = read_options({"address": "h:6379", "num_cpus": 2, "num_gpus": "0.5", "memory": "4GB", "wait": ["1", "60"],
                          "resources.fast": 1})
    assert found == Options("h:6379", 2.0, 0.5, 4 * 10**9, {"fast": 1.0}, 60.0)


@pytest.mark.parametrize(("given", "said"), [
    ({"adress": "x"}, "--ray adress: unknown key; did you mean 'address'"),
    ({"num_cpus": 0}, "--ray num_cpus=0: expected at least 0.01"),
    ({"num_gpus": "x"}, "--ray num_gpus=x: expected a number"),
    ({"num_gpus": "1.5"}, "--ray num_gpus=1.5: expected a part of one GPU"),
    ({"num_cpus": "nan"}, "--ray num_cpus=nan: expected at least"),
    ({"memory": "much"}, "--ray memory much: expected a size"),
    ({"resources.": 1}, "--ray resources.: unknown key"),
    ({"resources.GPU": 1}, "--ray resources.GPU: Ray's own"),
])
def test_wrong_options_are_told_in_one_line(given, said, cluster):
    with pytest.raises(UserError, match=said):
        read_options(given)


def test_without_ray_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ray is not installed: pip install 'kdbench\[ray\]'"):
        make_executor("ray", tmp_path)


def test_options_of_ray_go_with_ray(tmp_path):
    with pytest.raises(UserError, match="--ray num_cpus: goes with --executor ray"):
        make_executor("slurm", tmp_path, ray={"num_cpus": 1})


def test_the_command_itself_does_not_load_ray():
    code = "import sys, kdbench.execution.engines; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_on_a_gpu_asks_for_one_unless_told_otherwise():
    assert Options().demand("cpu", [NODE]) == {"CPU": 1.0}
    assert Options().demand("cuda", [NODE]) == {"CPU": 1.0, "GPU": 1.0}
    assert Options(num_gpus=0.25).demand("cuda", [NODE]) == {"CPU": 1.0, "GPU": 0.25}


def test_what_is_measured_has_a_node_for_itself(tmp_path, cluster):
    executor = alone(make_executor("ray", tmp_path, ray={"resources.fast": 1}))
    nodes = [{"CPU": 64.0}, {"CPU": 8.0, "fast": 1.0}, {"CPU": 16.0, "fast": 1.0}]
    assert executor.workers == 1 and executor.options.demand("cpu", nodes) == {"CPU": 16.0, "fast": 1.0}
    asked = alone(make_executor("ray", tmp_path, ray={"num_cpus": 4}))
    assert asked.options.demand("cpu", nodes) == {"CPU": 4.0}
