"""Runs as tasks of a real Ray cluster of two nodes, while nodes, workers and the command itself die."""

import os
import re
import signal
from threading import Thread

import psutil
import pytest
from support.commands import Command, locally, results, wait_until

from kdbench.results.store import Store

pytestmark = pytest.mark.ray
RAY = ("--executor", "ray")


@pytest.fixture(scope="module")
def cluster():
    """A head of one core, and a Ray that can be imported. Without Ray the tests skip, but where CI has installed it."""
    try:
        import ray  # noqa: F401
    except ImportError:
        (pytest.fail if os.environ.get("KDBENCH_CI") else pytest.skip)("ray is not installed")
    from support.ray import Cluster

    try:
        found = Cluster()
    except Exception as error:  # Ray's own, of every kind
        pytest.skip(f"Ray does not start here: {error}")
    yield found
    found.stop()


@pytest.fixture
def second(cluster):
    """A second node."""
    node = cluster.add()
    yield node
    if node in cluster.nodes.list_all_nodes():
        cluster.kill(node)


@pytest.fixture
def place(tmp_path, cluster, monkeypatch):
    """A folder for results and a cache of its own."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of_this_cache(place):
    """The processes that know the cache of this test, but the test."""
    found = []
    for one in psutil.process_iter(["environ", "cmdline"]):
        environment = one.info["environ"] or {}
        if environment.get("KDBENCH_CACHE") == str(place / "cache") and one.pid != os.getpid():
            found.append(one)
    return found


def test_smoke_gives_the_bits_of_local_runs_and_leaves_nothing_behind(cluster, second, place):
    from support.ray import workers

    locally(place / "other", "run", "smoke", "--out", "local")
    command = Command("run", "smoke", *RAY, "--out", "out")
    assert command.wait() == 0, command.printed
    assert results("out") == results("local") and len(results("out")) == 5
    assert not of_this_cache(place)
    wait_until(lambda: not workers(cluster.nodes.head_node) + workers(second), 10, "the workers to end")
    again = Command("run", "smoke", *RAY, "--out", "out")
    assert again.wait() == 0 and "4 runs were finished before, 0 now" in again.printed


def test_whatever_dies_the_results_of_quick_are_those_of_local_runs(cluster, second, place):
    """One campaign, since a fault must also not spoil what comes after it: the command is killed and started again, a
    worker is killed, a node loses its power."""
    from support.ray import below, raylet, workers

    what = ("run", "quick", "--methods", "ce,kd,byot,dml", "--seeds", "1", "--set", "recipe.epochs=5")
    local = Thread(target=locally, args=(place / "other", *what, "--workers", "1", "--out", "local"))
    local.start()  # beside the teacher there, which takes one core
    words = (*what, *RAY, "--out", "out")
    nodes = (cluster.nodes.head_node, second)

    def done():
        return len(list((place / "out" / "records").glob("*.json")))

    first = Command(*words)
    wait_until(lambda: list((place / "cache").glob("checkpoints/*/checkpoint")), 60, "the teacher's checkpoint")
    at_work = below([worker for node in nodes for worker in workers(node)])
    second_at_once = Command(*words)
    assert second_at_once.wait() == 2 and "in use by another `kdbench run`" in second_at_once.printed
    first.kill()
    _, alive = psutil.wait_procs(at_work, 10)
    assert at_work and not alive and not of_this_cache(place) and not done()

    command = Command(*words)
    wait_until(lambda: any(workers(node) for node in nodes), 30, "the teacher to go on")
    next(worker for node in nodes for worker in workers(node)).kill()
    wait_until(lambda: "died with its worker; it is tried again" in command.printed, 20, "the loss to be seen")
    wait_until(lambda: done() >= 2 and workers(second), 60, "a student on the second node")
    lost = below([raylet(second)])
    cluster.kill(second)
    _, alive = psutil.wait_procs(lost, 10)
    assert not alive
    assert command.wait() == 0, command.printed
    assert re.search(r"its node .* died: .*; it is tried again", command.printed)
    local.join()
    assert results("out") == results("local") and len(results("out")) == 5
    assert not of_this_cache(place)


def test_ctrl_c_ends_all_runs_and_leaves_no_record_of_them(place, cluster):
    from support.ray import below, workers

    command = Command("run", "quick", "--methods", "ce", "--seeds", "1", *RAY, "--out", "out")
    wait_until(lambda: list((place / "cache").glob("checkpoints/*/progress.json")), 60, "the teacher to be at work")
    at_work = below(workers(cluster.nodes.head_node))
    command.process.send_signal(signal.SIGINT)
    assert command.wait(30) == 130 and "the same command continues" in command.printed
    _, alive = psutil.wait_procs(at_work, 10)
    assert at_work and not alive and not of_this_cache(place)
    assert not Store(place / "cache" / "teachers").read()[0]


@pytest.mark.parametrize(("asked", "said"), [
    (["num_gpus=2", "wait=0"], "--ray num_gpus=2: no node offers that for a run; the cluster has 1 node with CPU 1, "),
    (["num_cpus=4", "memory=4TB", "wait=1"], r"--ray num_cpus=4 memory=4.0TB: no node offers"),
    (["address=127.0.0.1:1"], "--ray address=127.0.0.1:1: .*refused; `ray start --head` starts a cluster"),
    (["address=ray://127.0.0.1:10001"], "expected HOST:PORT"),
], ids=["GPUs", "together", "no cluster", "client"])
def test_what_the_cluster_cannot_do_is_one_line_that_says_what_to_do(place, asked, said):
    words = [word for one in asked for word in ("--ray", one)]
    refused(Command("run", "smoke", *RAY, *words, "--out", "out"), said)


@pytest.mark.parametrize(("code", "said"), [
    ("WITHOUT", "has no kdbench like the one here.*--ray resources.NAME"),
    ("OLDER", r"has timm 1\.0 instead of .*all nodes need the same Python environment"),
], ids=["no kdbench", "other version"])
def test_what_is_otherwise_on_a_node_is_one_line_that_names_it(place, cluster, code, said):
    from support import ray as support

    node = cluster.odd(place / "site", getattr(support, code))
    try:
        refused(Command("run", "smoke", *RAY, "--ray", "resources.odd=1", "--out", "out"), said)
    finally:
        cluster.kill(node)


def refused(command, said):
    assert command.wait(60) == 2, command.printed
    (line,) = [line for line in command.printed.splitlines() if line.startswith("kdbench: ")]
    assert re.search(said, line), line
    assert command.printed.splitlines()[-1] == line and "Traceback" not in command.printed


def test_tuning_and_profiles_go_through_the_cluster_too(place):
    for words in (("tune", "smoke", "--methods", "kd", "--trials", "2", "--tune-seeds", "1", "--sampler", "random"),
                  ("profile", "smoke", "--methods", "kd", "--steps", "2", "--repeats", "1")):
        command = Command(*words, *RAY, "--out", words[0])
        assert command.wait() == 0, command.printed
    records, _ = Store("tune").read()
    assert [one.status for one in records if one.role == "trial"] == ["ok", "ok"]
    assert len(list((place / "profile" / "profile").glob("*.json"))) == 2
