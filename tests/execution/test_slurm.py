"""Runs as Slurm jobs, with the cluster's queue and its answers played by the test; tests/cluster/ has a real one."""

import errno
import json
import os
import signal
from dataclasses import replace

import pytest
from support.matrices import job as job_of
from support.matrices import plugin, run_all, smoke, students, weights
from support.records import record

from kdbench.cli.options import read_keys
from kdbench.errors import UserError
from kdbench.execution.engines import make_executor
from kdbench.execution.matrix import Matrix, Training
from kdbench.execution.pool import LocalPool
from kdbench.execution.slurm import batch as batch_module
from kdbench.execution.slurm import pool as slurm
from kdbench.execution.slurm.batch import Note, batches, write_note
from kdbench.execution.slurm.node import run_chunk
from kdbench.execution.slurm.options import Options, read_options
from kdbench.execution.slurm.queue import QueueError, Seen, complaint
from kdbench.folders import CacheFolder, ResultsFolder
from kdbench.results.store import LEFT_OVER, Store


class Cluster:
    """A queue whose jobs end as `ends` says, one after another, and else well. A job that is RUNNING there is done when
    the queue is next asked for it."""

    def __init__(self):
        self.ends, self.seen, self.chunks, self.cancelled, self.refusals = [], {}, {}, [], []
        self.silent = 0

    def submit(self, batch, chunks, options):
        if self.refusals:
            raise QueueError(self.refusals.pop(0))
        write_note(batch, Note([[job.id for job in chunk.jobs] for chunk in chunks],
                           {job.id: job.method.digest for chunk in chunks for job in chunk.jobs}, submitted=True))
        for chunk in chunks:
            state = self.ends.pop(0) if self.ends else "COMPLETED"
            if state not in ("COMPLETED", "RUNNING", "FAILED"):
                (batch.root / "began").mkdir(exist_ok=True)
                batch.began(chunk.index).touch()
            if state == "COMPLETED":
                run_chunk(chunk)
            self.chunks[batch.name, chunk.index] = chunk
            self.seen[batch.name, chunk.index] = Seen(f"{len(self.seen)}_{chunk.index}", batch.name, state, "node1", "")

    def look(self, names):
        if self.silent:
            self.silent -= 1
            raise QueueError("Unable to contact slurm controller (connect failure)")
        return [one for (name, _), one in self.seen.items() if name in names]

    def finish(self):
        """Let what runs be done."""
        for place, one in self.seen.items():
            if one.state == "RUNNING":
                run_chunk(self.chunks[place])
                self.seen[place] = replace(one, state="COMPLETED")

    def cancel(self, *which):
        self.cancelled += which
        for place, one in self.seen.items():
            if one.id in which or f"--name={one.name}" in which:
                self.seen[place] = replace(one, state="CANCELLED")


@pytest.fixture
def cluster(monkeypatch):
    found = Cluster()
    for name in ("submit", "look", "cancel"):
        monkeypatch.setattr(slurm, name, getattr(found, name))
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "SETTLE_SECONDS", 0.0)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
                                                           signal.SIGCONT)}
    yield found
    for number, handler in kept.items():
        signal.signal(number, handler)


def pool_for(out, **settings):
    return slurm.SlurmPool(out, Options(pack=2, poll=0.01), **{"say": lambda text: None, **settings})


def run(plan, out, cache, pool=None):
    said = []
    return run_all(plan, out, cache, pool or pool_for(out, say=said.append), said)


@pytest.mark.slow
def test_teachers_come_first_and_the_results_are_those_of_local_runs(tmp_path, cluster):
    plan = smoke("ce", "kd")
    local = LocalPool(2)
    local.start()
    run(plan, tmp_path / "local", tmp_path / "cache", local)
    summary, _ = run(plan, tmp_path / "out", tmp_path / "other")
    assert (summary.trained, summary.failed) == (2, 0)
    assert weights(tmp_path / "out") == weights(tmp_path / "local")
    assert [[job.role for job in chunk.jobs] for chunk in cluster.chunks.values()] == \
        [["teacher"], ["student", "student"]]
    assert not (tmp_path / "out" / ".slurm").exists()


def test_a_run_that_a_dead_node_lost_is_submitted_again_as_often_as_retries_say(tmp_path, cache, cluster):
    plan = smoke("ce")
    run(plan, tmp_path / "before", cache)
    cluster.ends = ["NODE_FAIL"]
    summary, said = run(plan, tmp_path / "out", cache)
    assert summary.trained == 1 and any("on node1 ended as NODE_FAIL" in line for line in said)
    cluster.ends = ["NODE_FAIL"] * 2
    summary, _ = run(plan, tmp_path / "again", cache)
    (record,) = students(tmp_path / "again").values()
    assert summary.failed == 1 and record.status == "crashed" and "ended as NODE_FAIL" in record.reason


def test_a_preempted_run_is_submitted_again_whatever_the_retries(tmp_path, cache, cluster):
    cluster.ends = ["PREEMPTED"] * 4
    summary, _ = run(smoke("ce"), tmp_path, cache, pool_for(tmp_path, retries=0))
    assert (summary.trained, summary.failed) == (1, 0)


def test_a_run_whose_time_is_over_without_a_checkpoint_fails_and_says_what_to_ask_for(tmp_path, cache, cluster):
    cluster.ends = ["TIMEOUT"]
    run(smoke("ce"), tmp_path, cache, pool_for(tmp_path, retries=0))
    (record,) = students(tmp_path).values()
    assert record.status == "crashed" and "TIMEOUT: more with --slurm time=" in record.reason


def test_only_the_runs_that_had_begun_are_blamed_for_the_end_of_their_job(tmp_path, cache, cluster):
    plan = smoke("ce", "label_smoothing")
    run(plan, tmp_path / "before", cache)
    cluster.ends = ["NODE_FAIL"]
    run(plan, tmp_path / "out", cache, pool_for(tmp_path / "out", retries=0))
    assert sorted(one.status for one in students(tmp_path / "out").values()) == ["crashed", "ok"]


@pytest.mark.parametrize("end", ["NODE_FAIL", "CANCELLED"])
@pytest.mark.parametrize("command", ["the first", "one that comes back"])
def test_a_run_that_ended_well_before_its_job_was_lost_is_neither_repeated_nor_failed(tmp_path, cluster, command, end):
    plan, cluster.ends = smoke("ce"), ["RUNNING"]
    job = job_of(plan, tmp_path / "out", tmp_path / "cache", "ce")
    good = record(job.spec, method_digest=job.method.digest)

    def die(running, waiting):
        raise KeyboardInterrupt

    def lose(running, waiting):
        Store(job.out).write(good)
        cluster.seen = {place: replace(one, state=end) for place, one in cluster.seen.items()}

    if command != "the first":
        with pytest.raises(KeyboardInterrupt):
            list(pool_for(job.out).run([job], Training(), die))
    found = list(pool_for(job.out, retries=0).run([job], Training(), lose))
    assert found == [(job, good)] and len(cluster.chunks) == 1 and Store(job.out).get(job.id) == good


def test_a_good_record_that_is_seen_only_after_its_job_was_lost_is_not_replaced_on_the_next_node(tmp_path, cluster):
    plan, said, cluster.ends = smoke("ce"), [], ["NODE_FAIL"]
    job = job_of(plan, tmp_path / "out", tmp_path / "cache", "ce")
    good = record(job.spec, method_digest=job.method.digest)

    def show(running, waiting):
        if said:
            Store(job.out).write(good)

    assert list(pool_for(job.out, say=said.append).run([job], Training(), show)) == [(job, good)]
    assert len(cluster.chunks) == 2


def test_a_cancelled_run_fails_and_its_students_with_it(tmp_path, cluster):
    cluster.ends = ["CANCELLED"]
    summary, _ = run(smoke("kd"), tmp_path / "out", tmp_path / "cache")
    (record,) = students(tmp_path / "out").values()
    assert summary.failed == 1 and "its teacher" in record.reason and "was cancelled" in record.reason
    assert len(cluster.chunks) == 1


def test_a_command_that_comes_back_waits_for_what_is_in_the_queue(tmp_path, cache, cluster):
    plan = smoke("ce", "label_smoothing")
    run(plan, tmp_path / "before", cache)
    cluster.ends, submitted = ["RUNNING"], len(cluster.chunks)
    said = []
    jobs = Matrix(plan, tmp_path / "out", CacheFolder(cache), print).pending()

    def die(running, waiting):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool_for(tmp_path / "out", say=said.append).run(jobs, Training(), die))
    assert "stay in the cluster's queue" in said[-1] and len(cluster.chunks) == submitted + 1

    def done(running, waiting):
        cluster.finish()

    found = list(pool_for(tmp_path / "out", say=said.append).run(jobs, Training(), done))
    assert [record.status for _, record in found] == ["ok", "ok"] and len(cluster.chunks) == submitted + 1
    assert any("in the queue of the cluster already" in line for line in said)
    assert weights(tmp_path / "out") == weights(tmp_path / "before") and not (tmp_path / "out" / ".slurm").exists()


def test_a_run_that_ended_while_nobody_looked_is_not_repeated(tmp_path, cache, cluster):
    plan = smoke("ce")
    run(plan, tmp_path / "before", cache)
    matrix = Matrix(plan, tmp_path / "out", CacheFolder(cache), print)
    jobs, cluster.ends = matrix.pending(), ["RUNNING"]

    def die(running, waiting):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool_for(tmp_path / "out").run(jobs, Training(), die))
    submitted = len(cluster.chunks)
    cluster.finish()
    ((_, record),) = pool_for(tmp_path / "out").run(jobs, Training(), lambda running, waiting: None)
    assert record.status == "ok" and len(cluster.chunks) == submitted


@pytest.mark.parametrize("what", ["half submitted", "other method"])
def test_jobs_that_cannot_be_waited_for_are_cancelled_and_submitted_anew(tmp_path, cache, cluster, what):
    plan = smoke("mine", plugins=[plugin(tmp_path)])
    matrix = Matrix(plan, tmp_path / "out", CacheFolder(cache), print)
    run(smoke("ce"), tmp_path / "before", cache)
    jobs, cluster.ends = matrix.pending(), ["RUNNING"]

    def die(running, waiting):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool_for(tmp_path / "out").run(jobs, Training(), die))
    ((batch, note),) = batches(ResultsFolder(tmp_path / "out").slurm)
    if what == "half submitted":
        note.submitted = False
    else:
        note.methods = dict.fromkeys(note.methods, "0" * 64)
    write_note(batch, note)
    found = list(pool_for(tmp_path / "out").run(jobs, Training(), lambda running, waiting: None))
    assert [record.status for _, record in found] == ["ok"]
    assert cluster.cancelled[0] in (f"--name={batch.name}", cluster.seen[batch.name, 0].id)


def test_a_note_that_cannot_be_read_now_is_kept_and_ends_a_command_before_it_submits(tmp_path, cluster, monkeypatch):
    folder = ResultsFolder(tmp_path / "out").slurm
    damaged, kept = folder.batch("kdbench-a"), folder.batch("kdbench-b")
    write_note(kept, Note([["x"]], {"x": "0" * 64}, submitted=True))
    damaged.root.mkdir()
    damaged.note.write_text("{")

    def read(path):
        if path == kept.note:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return path.read_bytes()

    monkeypatch.setattr(batch_module, "read_file", read)
    job = job_of(smoke("ce"), tmp_path / "out", tmp_path / "cache", "ce")
    pool = pool_for(tmp_path / "out")
    with pytest.raises(UserError, match=r"kdbench-b/.*: Input/output error; it says which runs are in the queue"):
        list(pool.run([job], Training(), lambda running, waiting: None))
    pool._clean()
    assert kept.note.exists() and not damaged.root.exists() and not cluster.chunks


def test_a_job_that_begins_again_skips_what_it_did(tmp_path, cache, cluster):
    plan = smoke("ce", "label_smoothing")
    run(plan, tmp_path / "out", cache)
    chunk = next(iter(cluster.chunks.values()))
    records = {job.id: chunk.work.result(job) for job in chunk.jobs}
    run_chunk(chunk)
    assert {job.id: chunk.work.result(job) for job in chunk.jobs} == records


def test_a_job_that_cannot_start_ends_the_command_with_what_its_log_says(tmp_path, cache, cluster, monkeypatch):
    submit = cluster.submit

    def with_log(batch, chunks, options):
        submit(batch, chunks, options)
        batch.jobs.mkdir()
        (batch.jobs / f"{cluster.seen[batch.name, 0].id}_0_log.err").write_text(
            "Traceback\nModuleNotFoundError: No module named 'torch'\nslurmstepd: error: x\n")

    monkeypatch.setattr(slurm, "submit", with_log)
    cluster.ends = ["FAILED"]
    with pytest.raises(UserError, match=r"could not start kdbench: ModuleNotFoundError: No module named 'torch'; .*"
                                        r"--slurm python=PATH"):
        run(smoke("ce"), tmp_path, cache)
    assert cluster.cancelled


def test_other_versions_on_a_node_are_named(tmp_path, cache, cluster):
    run(smoke("ce"), tmp_path, cache)
    chunk = next(iter(cluster.chunks.values()))
    with pytest.raises(UserError, match=r"has torch .* instead of 1\.0"):
        run_chunk(replace(chunk, versions={**chunk.versions, "torch": "1.0"}))


def test_a_cluster_that_is_silent_for_a_while_is_asked_again_and_one_that_stays_so_ends_the_command(
        tmp_path, cache, cluster, monkeypatch):
    cluster.ends = ["NODE_FAIL"]
    plan, jobs = smoke("ce"), None
    matrix = Matrix(plan, tmp_path, CacheFolder(cache), print)
    jobs, said = matrix.pending(), []

    times = iter([3])

    def silent(running, waiting):
        cluster.silent = next(times, cluster.silent)

    pool = pool_for(tmp_path, say=said.append)
    assert [record.status for _, record in pool.run(jobs, Training(), silent)][-1] == "ok"
    assert any("is asked again" in line for line in said) and "the cluster answers again" in said
    monkeypatch.setattr(slurm, "SILENCE_SECONDS", -1.0)
    cluster.ends = ["RUNNING"]
    with pytest.raises(UserError, match="the cluster does not answer"):
        list(pool_for(tmp_path).run(jobs, Training(), lambda running, waiting: setattr(cluster, "silent", 1)))


def test_runs_wait_for_a_cluster_that_does_not_take_them_for_a_while(tmp_path, cache, cluster):
    cluster.refusals, said = ["Unable to contact slurm controller (connect failure)"] * 2, []
    summary, _ = run(smoke("ce"), tmp_path, cache, pool_for(tmp_path, say=said.append))
    assert summary.trained == 1 and said[-1] == "the cluster answers again"


def test_a_quota_holds_runs_back_until_others_have_ended(tmp_path, cache, cluster):
    run(smoke("ce"), tmp_path / "before", cache)
    said, quota = [], "Job violates accounting/QOS policy (job submit limit)"
    jobs = Matrix(smoke("ce", "kd"), tmp_path / "out", CacheFolder(cache), print).pending()
    cluster.refusals = [quota]
    with pytest.raises(UserError, match="a quota of yours is reached"):
        list(pool_for(tmp_path / "out").run(jobs, Training(), lambda running, waiting: None))
    pool = slurm.SlurmPool(tmp_path / "out", Options(pack=1, poll=0.01), workers=1, say=said.append)
    cluster.ends = ["RUNNING"]

    def watch(running, waiting):
        if said:
            cluster.finish()
        elif not cluster.refusals:
            cluster.refusals, pool.workers = [quota], 2

    assert {record.status for _, record in pool.run(jobs, Training(), watch)} == {"ok"}
    assert sum("submitted as these end" in line for line in said) == 1


def test_half_written_files_of_jobs_in_the_queue_are_left_alone(tmp_path):
    writing = tmp_path / "records" / ".x.json.1-a.tmp"
    writing.parent.mkdir()
    writing.touch()
    (tmp_path / ".slurm").mkdir()
    with Store(tmp_path).lock():
        assert writing.exists() and LEFT_OVER > 0
    (tmp_path / ".slurm").rmdir()
    with Store(tmp_path).lock():
        assert not writing.exists()


# Options, and what the cluster says.

def test_options_are_submitit_s_and_those_of_packing():
    pytest.importorskip("submitit")
    found = read_options({"partition": "gpu", "time": "1-02:30:30", "pack": 4, "at_once": "2", "setup": "module load x",
                          "mem": ["1G", "4G"], "sbatch.reservation": "mine"})
    assert (found.pack, found.at_once) == (4, 2)
    assert found.asked == {"wckey": None, "partition": "gpu", "time": 26 * 60 + 31, "setup": ["module load x"],
                           "mem": "4G", "cpus_per_task": 2,
                           "additional_parameters": {"requeue": True, "reservation": "mine"}}


@pytest.mark.parametrize(("text", "minutes"), [("90", 90), ("1:30", 2), ("12:00:00", 720), ("2-12", 3600),
                                               ("0-0:05", 5)])
def test_times_are_read_as_slurm_reads_them(text, minutes):
    pytest.importorskip("submitit")
    assert read_options({"time": text}).asked["time"] == minutes


@pytest.mark.parametrize(("given", "said"), [
    ({"partion": "x"}, "--slurm partion: unknown key; did you mean 'partition'"),
    ({"time": "soon"}, "--slurm time=soon: expected minutes"), ({"pack": 0}, "--slurm pack=0: expected at least 1"),
    ({"at_once": "x"}, "--slurm at_once=x: expected a number"), ({"time": "0"}, "at least a minute"),
    ({"pack": int("9" * 400)}, "--slurm pack=9{100}: expected at least 1, and at most 1e"),
    ({"pack": "9" * 5000}, "--slurm pack=9{100}: expected a number"), ({"poll": "nan"}, "--slurm poll=nan: expected"),
    ({"time": "9" * 5000 + ":1"}, "--slurm time=9{100}: expected minutes"),
])
def test_wrong_options_are_told_in_one_line(given, said):
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match=said):
        read_options(given)


def test_numbers_of_any_length_come_from_the_command_line(kdbench):
    pytest.importorskip("submitit")
    assert read_keys("--slurm", ["pack=4", "mem=" + "9" * 5000]) == {"pack": 4, "mem": "9" * 5000}
    for value in ("pack=" + "9" * 400, "time=" + "9" * 5000):
        code, out, err = kdbench("run", "smoke", "--executor", "slurm", "--slurm", value)
        assert code == 2 and out == "" and "expected" in err and len(err.splitlines()) == 1


def test_a_dry_run_counts_with_the_cluster_and_does_not_ask_it(kdbench, tmp_path, cluster):
    pytest.importorskip("submitit")
    cluster.silent = 1
    asked = ["run", "smoke", "--methods", "ce", "--seeds", "1", "--executor", "slurm", "--dry-run", "--json"]
    code, out, _ = kdbench(*asked)
    found = json.loads(out)
    assert (code, found["workers"], found["memory_there"], cluster.silent) == (0, 256, None, 1)
    code, out, err = kdbench(*asked, "--slurm", "nonsense=1")
    assert (code, out) == (2, "") and "--slurm nonsense: unknown key" in err
    assert list(tmp_path.iterdir()) == []


def test_without_submitit_one_line_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "submitit.slurm.slurm", None)
    with pytest.raises(UserError, match=r"pip install 'kdbench\[slurm\]'"):
        read_options({})


def test_executors_have_names_and_their_own_options(tmp_path):
    with pytest.raises(UserError, match="unknown executor 'slrm'; did you mean 'slurm'"):
        make_executor("slrm", tmp_path)
    with pytest.raises(UserError, match="--slurm partition: goes with --executor slurm"):
        make_executor("local", tmp_path, slurm={"partition": "x"})


def test_a_complaint_of_sbatch_is_its_reason():
    text = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid x\n"
    assert complaint(text) == "Invalid x" and complaint("squeue: fatal: no\n") == "squeue: fatal: no" == \
        complaint("squeue: error: y\nsqueue: fatal: no\n")


def test_short_runs_share_a_job_by_what_they_take(tmp_path, cache):
    jobs = Matrix(smoke("ce", "label_smoothing", "kd", seeds=[0, 1]), tmp_path, CacheFolder(cache), print,
                  look_only=True).pending()
    seconds = slurm.PACK_SECONDS / 3
    pool = slurm.SlurmPool(tmp_path, Options(), estimate=lambda job: seconds)
    sizes = [len(chunk) for chunk in pool._packed(jobs)]
    assert sizes[:2] == [3, 3]
    assert {len(chunk) for chunk in slurm.SlurmPool(tmp_path, Options())._packed(jobs)} == {1}
    assert len(slurm.SlurmPool(tmp_path, Options(pack=4))._packed(jobs)[0]) == 4
