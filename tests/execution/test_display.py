"""What the display says of a matrix that nobody runs: jobs and records are made up, and so is the clock."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console
from support.records import RECIPE, record, spec

from kdbench.environment import cpu_name
from kdbench.execution import display as display_module
from kdbench.execution.display import LEFT_EVERY, PlainDisplay, TerminalDisplay
from kdbench.execution.estimate import Estimator, Sample
from kdbench.execution.job import Job
from kdbench.folders import CacheFolder
from kdbench.spec import OwnRecipe

RECIPE_80 = RECIPE.model_copy(update={"train_size": 80})
COST = {"ce": 2.0, "kd": 4.0, "at": 40.0}  # seconds; "at" is the heavy one


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(display_module, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


@pytest.fixture
def make(tmp_path):
    """Makes jobs of a run each, which all need the teacher of their pair."""
    def job(method="kd", seed=0, role="student"):
        run = spec(method, seed, dataset="mnist5k", recipe=RECIPE_80)
        run = run.teacher.run if role == "teacher" else run
        return Job(run, SimpleNamespace(family="logit", digest="a" * 64), role, "tiny", tmp_path, CacheFolder(tmp_path))

    return job


def shown(jobs, *, workers=2, samples=()):
    console = Console(file=io.StringIO(), width=200)
    display = PlainDisplay(console, workers, Estimator(samples, "ce"))
    display.expect(jobs)
    return display


def printed(display):
    return display.console.file.getvalue()


def done(job, seconds, status="ok"):
    """Its process spends a second beside training."""
    end = f"2026-01-01T00:{int(seconds + 1) // 60:02}:{int(seconds + 1) % 60:02}Z"
    metrics = {"test_accuracy": .5} if status == "ok" else {}
    return record(job.spec, role=job.role, seconds=seconds, finished=end, environment={"cpu": cpu_name()},
                  status=status, reason=None if status == "ok" else "oh", metrics=metrics)


def sample(job, seconds, around=1.0):
    return Sample(job.spec, seconds, cpu_name(), around=around)


def simulate(jobs, workers, clock, display, cost):
    """Run the jobs as the pool does, by the clock. Each time that one ends: the time, the seconds left as the display
    has them, and as the mean of the finished runs would have them."""
    waiting, running, told, seconds, began = list(jobs), [], [], [], clock.time
    while waiting or running:
        busy = {r.job.id for r in running} | {job.id for job in waiting}
        for job in [job for job in waiting if busy.isdisjoint(job.teachers())][:workers - len(running)]:
            waiting.remove(job)
            running.append(SimpleNamespace(job=job, started=clock.time, ends=clock.time + cost(job) + 1))
        ended = min(running, key=lambda r: r.ends)
        clock.time = ended.ends
        running.remove(ended)
        display.ended(ended.job, done(ended.job, cost(ended.job)))
        seconds.append(cost(ended.job))
        mean = sum(seconds) / len(seconds)
        begun = sum(max(mean - (clock.time - r.started), 0) for r in running)
        told.append((clock.time - began, display.seconds_left(running), (begun + mean * len(waiting)) / workers))
    return told


def test_with_heavy_and_light_methods_the_time_left_is_right_where_a_mean_is_wrong_by_a_factor(make, clock):
    """Seeds come one after the other: the second heavy one begins long before the end."""
    jobs = [make("ce", role="teacher")] + [make(method, seed) for seed in range(8) for method in COST]

    def cost(job):
        return 20.0 if job.role == "teacher" else COST[job.spec.method]

    display = shown(jobs, samples=[sample(job, cost(job)) for job in jobs[:4]])
    start = display.seconds_left()
    told = simulate(jobs, 2, clock, display, cost)
    took = told[-1][0]
    assert start == pytest.approx(took, rel=.2)
    for at, left, _ in told[:-1]:
        assert left == pytest.approx(took - at, rel=.2, abs=3)
    at, _, by_the_mean = told[4]  # the teacher and the light runs of two seeds have ended
    assert took - at > 2.5 * by_the_mean


def test_without_earlier_records_the_first_of_each_method_make_it_right(make, clock):
    jobs = [make(method, seed) for seed in range(6) for method in COST]
    display = shown(jobs)
    assert display.seconds_left() is None
    told = simulate(jobs, 2, clock, display, lambda job: COST[job.spec.method])
    took = told[-1][0]
    after_all_methods = [(at, left) for at, left, _ in told if at > COST["at"] + 5]
    assert len(after_all_methods) > 5
    for at, left in after_all_methods:
        assert left == pytest.approx(took - at, rel=.2, abs=3)


def test_a_running_job_counts_by_its_own_epochs(make, clock):
    """Of 24 epochs 6 took 30 s; the epoch in progress began 2 s ago."""
    job = make()
    display = shown([job], samples=[sample(job, 10.0)])
    running = [SimpleNamespace(job=job, started=clock.time)]
    clock.time += 4
    assert display.seconds_left(running) == pytest.approx(10 + 1 - 4)
    progress = job.cache.unfinished(job.id).progress
    progress.parent.mkdir(parents=True)
    progress.write_text(json.dumps({"epoch": 6, "epochs": 24, "accuracy": .5, "seconds": 30.0}))
    assert display.seconds_left(running) == pytest.approx(5 * 18 + 1)
    clock.time += 2
    assert display.seconds_left(running) == pytest.approx(5 * 18 + 1 - 2)


def test_a_job_that_takes_longer_than_it_should_has_no_time_left_rather_than_less(make, clock):
    job = make()
    display = shown([job], samples=[sample(job, 10.0)])
    running = [SimpleNamespace(job=job, started=clock.time)]
    clock.time += 500
    assert display.seconds_left(running) == 0


def test_a_run_that_crashed_at_once_makes_the_others_no_shorter(make, clock):
    jobs = [make(seed=seed) for seed in range(3)]
    display = shown(jobs, workers=1, samples=[sample(jobs[0], 10.0)])
    assert display.seconds_left() == pytest.approx(33)
    display.ended(jobs[0], done(jobs[0], 0.0, "crashed"))
    assert display.seconds_left() == pytest.approx(22)


def test_the_first_line_tells_the_time_where_it_is_known(make):
    jobs = [make(seed=seed) for seed in range(36)]
    assert printed(shown(jobs)) == "36 runs, 2 at a time\n"
    assert printed(shown(jobs, samples=[sample(jobs[0], 9.0)])) == "36 runs, 2 at a time, about 3 min 00 s\n"
    assert printed(shown([])) == ""


def test_a_pruned_run_is_told_with_its_reason_and_is_no_failure(make):
    jobs = [make(seed=seed, role="trial") for seed in range(2)]
    display = shown(jobs)
    for job, status in zip(jobs, ("pruned", "crashed"), strict=True):
        display.ended(job, done(job, 1.0, status))
    pruned, crashed = printed(display).splitlines()[-2:]
    assert "[1/2] kd" in pruned and pruned.endswith(": oh") and "FAILED" not in pruned and "FAILED" in crashed


def test_a_run_that_has_just_begun_is_shown_with_the_epochs_that_it_will_train(make, clock):
    job = make()
    longer = replace(job, spec=job.spec.model_copy(update={"own_recipe": OwnRecipe(epochs=5)}))
    console = Console(file=io.StringIO(), width=200)
    display = TerminalDisplay(console, 1, Estimator([], "ce"))
    with display:
        display.watch([SimpleNamespace(job=one, started=clock.time) for one in (job, longer)], 0)
        console.print(display._live.renderable)
    assert "0/2" in printed(display) and "0/5" in printed(display)


def test_the_time_left_is_estimated_now_and_then_and_counted_down_in_between(make, clock, monkeypatch):
    job = make()
    display = TerminalDisplay(Console(file=io.StringIO(), width=200), 1, Estimator([sample(job, 60.0)], "ce"))
    estimated = []
    monkeypatch.setattr(display, "seconds_left", lambda running: estimated.append(1) or 60.0)
    with display:
        display.expect([job])
        for passed in (0.0, LEFT_EVERY - 1, 1.0):
            clock.time += passed
            display.watch([], 1)
            expected = "56 s" if passed == LEFT_EVERY - 1 else "1 min 00 s"
            display.console.print(display._live.renderable)
            assert f"about {expected} left" in printed(display).splitlines()[-1]
    assert len(estimated) == 2
