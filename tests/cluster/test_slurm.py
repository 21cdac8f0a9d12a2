"""Runs as jobs of a real Slurm cluster of two nodes, while nodes, jobs, the controller and the command itself die."""

import re

import pytest
from support.commands import Command, locally, results
from support.programs import program
from support.slurm import Cluster

from kdbench.results.store import Store

pytestmark = pytest.mark.slurm
EACH = ("--slurm", "poll=1", "--slurm", "mem=1500M", "--slurm", "time=10")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two idle nodes. Where Slurm is not installed, or does not start, the tests skip and say why."""
    for name in ("slurmctld", "slurmd", "munged"):
        program(name, "/usr/sbin")
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        try:
            found.start()
        except (OSError, RuntimeError) as error:
            pytest.skip(f"Slurm does not start here: {error}")
        yield found
    finally:
        found.stop()


@pytest.fixture
def place(tmp_path, cluster, monkeypatch):
    """A folder for results and a cache of its own."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLURM_CONF", str(cluster.configuration))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_smoke_gives_the_bits_of_local_runs_and_leaves_nothing_behind(place, cluster):
    locally(place / "other", "run", "smoke", "--out", "local")
    command = Command("run", "smoke", "--executor", "slurm", *EACH, "--slurm", "pack=4", "--out", "out")
    assert command.wait() == 0, command.printed
    assert results("out") == results("local") and len(results("out")) == 5
    assert not (place / "out" / ".slurm").exists() and not cluster.jobs("PENDING,RUNNING")
    again = Command("run", "smoke", "--executor", "slurm", *EACH, "--out", "out")
    assert again.wait() == 0 and "4 runs were finished before, 0 now" in again.printed


def test_whatever_dies_the_results_of_quick_are_those_of_local_runs(place, cluster):
    """One campaign, since a fault must also not spoil what comes after it: the command is killed and started again, a
    node loses its power, the controller is restarted, a job is preempted."""
    what = ("run", "quick", "--core", "--seeds", "1", "--set", "recipe.epochs=12")
    locally(place / "other", *what, "--out", "local")
    words = (*what, "--executor", "slurm", *EACH, "--slurm", "pack=3", "--out", "out")

    def done():
        return len(list((place / "out" / "records").glob("*.json")))

    first = Command(*words)
    cluster.wait(lambda: list((place / "cache").glob("checkpoints/*/checkpoint")), 60, "the teacher's checkpoint")
    first.kill()
    batches = {path.name for path in (place / "out" / ".slurm").iterdir()}
    command = Command(*words)
    cluster.wait(lambda: "in the queue of the cluster already" in command.printed, 30, "the second command's word")
    assert {path.name for path in (place / "out" / ".slurm").iterdir()} == batches  # nothing was submitted again

    cluster.kill("node1" if cluster.processes_on("node1") else "node2")
    cluster.wait(lambda: "due to failure of node" in cluster.log(), 40, "the jobs of the dead node to be queued again")
    for node in {"node1", "node2"} - cluster.daemons.keys():
        cluster.start_node(node)

    cluster.wait(lambda: done() >= 4, 120, "some records")
    cluster.kill("slurmctld")
    cluster.start_controller()
    cluster.wait(lambda: cluster.jobs("RUNNING"), 30, "the controller to know its jobs again")

    cluster.call("sbatch", "-p", "urgent", "--nodelist", "node1,node2", "-N", "2", "--mem=3000", "-o", "/dev/null",
                 "--wrap", "sleep 2")
    cluster.wait(lambda: re.search("preempted JobId=.* has been requeued", cluster.log()), 30, "a preemption")
    assert command.wait() == 0, command.printed
    assert results("out") == results("local") and len(results("out")) == 13
    assert not (place / "out" / ".slurm").exists()


def test_two_commands_do_not_work_in_one_folder(place, cluster):
    first = Command("run", "smoke", "--executor", "slurm", *EACH, "--out", "out")
    cluster.wait((place / "out" / ".slurm").exists, 30, "the first command to submit")
    second = Command("run", "smoke", "--executor", "slurm", *EACH, "--out", "out")
    assert second.wait() == 2 and "in use by another `kdbench run`" in second.printed
    assert first.wait() == 0, first.printed


@pytest.mark.parametrize(("asked", "said"), [
    (["partition=none"], "(?i)--slurm partition=none: invalid partition.*`sinfo` lists the partitions"),
    (["mem=900G"], "(?i)configuration is not available.*--slurm mem="),
    (["python=/nowhere/python"], "could not start kdbench: .*/nowhere/python.*--slurm python=PATH"),
    (["setup=export PYTHONPATH=/nowhere PYTHONHOME=/nowhere"], "could not start kdbench: .*--slurm setup="),
], ids=["partition", "memory", "no python", "broken python"])
def test_what_the_cluster_refuses_is_one_line_that_says_what_to_do(place, asked, said):
    words = [word for one in asked for word in ("--slurm", one)]
    command = Command("run", "smoke", "--executor", "slurm", *EACH, *words, "--out", "out")
    assert command.wait(60) == 2, command.printed
    (line,) = [line for line in command.printed.splitlines() if line.startswith("kdbench: ")]
    assert re.search(said, line), line
    assert command.printed.splitlines()[-1] == line and "Traceback" not in command.printed


def test_a_cancelled_job_fails_its_runs_and_the_same_command_tries_again(place, cluster):
    blocker = [cluster.call("sbatch", "-p", "urgent", "-o", "/dev/null", "--mem=3000", "--wrap", "sleep 60").split()[-1]
               for _ in range(2)]
    command = Command("run", "smoke", "--methods", "ce", "--seeds", "1", "--executor", "slurm", *EACH, "--out", "out")
    cluster.wait(lambda: (place / "out" / ".slurm").exists() and cluster.jobs("PENDING"), 30, "a waiting job")
    cluster.call("scancel", *cluster.jobs("PENDING"))
    assert command.wait() == 1, command.printed
    assert re.search("FAILED .*was cancelled", command.printed)
    cluster.call("scancel", *blocker)
    again = Command("run", "smoke", "--methods", "ce", "--seeds", "1", "--executor", "slurm", *EACH, "--out", "out")
    assert again.wait() == 0, again.printed


def test_tuning_and_profiles_go_through_the_cluster_too(place):
    for words in (("tune", "smoke", "--methods", "kd", "--trials", "2", "--tune-seeds", "1", "--sampler", "random"),
                  ("profile", "smoke", "--methods", "kd", "--steps", "2", "--repeats", "1")):
        command = Command(*words, "--executor", "slurm", *EACH, "--out", words[0])
        assert command.wait() == 0, command.printed
    records, _ = Store("tune").read()
    assert [one.status for one in records if one.role == "trial"] == ["ok", "ok"]
    assert len(list((place / "profile" / "profile").glob("*.json"))) == 2
