"""The short timing of runs, on the smoke suite; no test asserts a real time."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.matrices import plugin, smoke, teacher_job
from support.profiles import job

from kdbench.data.catalog import DATASETS
from kdbench.environment import cpu_name
from kdbench.profile import timing
from kdbench.profile.forecast import earlier
from kdbench.profile.timing import time_runs
from kdbench.spec import OwnRecipe
from kdbench.train.process import peak_memory
from kdbench.train.worker import run_job


@pytest.fixture
def steps(monkeypatch):
    """Steps that do nothing and take as long by a clock of their own as `steps.take` says."""
    clock = SimpleNamespace(time=0.0, take=0.1, taken=0)

    def stepper(trainer, numbers):
        def step():
            clock.time += clock.take
            clock.taken += 1
        return step

    monkeypatch.setattr(timing, "stepper", stepper)
    monkeypatch.setattr(timing, "time", SimpleNamespace(
        perf_counter=lambda: clock.time, process_time=lambda: clock.time))
    return clock


def test_a_run_takes_the_mean_of_a_few_steps_for_each_of_its_steps(tmp_path, cache, steps):
    kd = job("kd", tmp_path, cache, settings={"recipe.epochs": 5})
    (sample,), failed, _ = time_runs([kd], 60)
    per_epoch = DATASETS["synthetic"].sizes[0] // kd.spec.recipe.batch_size
    assert (steps.taken, sample.seconds) == (timing.STEPS, pytest.approx(.1 * 5 * per_epoch))
    assert (sample.spec, sample.source, sample.machine, failed) == (kd.spec, "timed", cpu_name(), {})


def test_a_run_of_equal_compute_is_timed_with_its_own_epochs_and_points_of_its_curve(tmp_path, cache, steps,
                                                                                     monkeypatch):
    kd = job("kd", tmp_path, cache)
    own = replace(kd, spec=kd.spec.model_copy(update={"own_recipe": OwnRecipe(epochs=5)}))
    surrounded = []
    monkeypatch.setattr(timing, "_seconds_around", lambda student, dataset, recipe: surrounded.append(recipe) or 1.0)
    (plain, longer), _, _ = time_runs([kd, own], 60)
    assert longer.seconds == pytest.approx(2.5 * plain.seconds)
    assert [recipe.epochs for recipe in surrounded] == [2, 5]


def test_slow_steps_are_few_and_slow_methods_end_the_timing(tmp_path, cache, steps):
    steps.take = 40.0
    jobs = [job(method, tmp_path, cache) for method in ("ce", "kd", "at")]
    samples, _, took = time_runs(jobs, 60)
    assert (steps.taken, took, [sample.spec.method for sample in samples]) == (2, 80, ["ce", "kd"])


def test_a_method_that_fails_is_named_with_its_reason_and_costs_no_other(tmp_path, cache):
    jobs = [job("mine", tmp_path, cache, plugins=[plugin(tmp_path, "raise ValueError('oh')")]),
            job("ce", tmp_path, cache)]
    samples, failed, _ = time_runs(jobs, 60)
    assert [sample.spec.method for sample in samples] == ["ce"]
    assert failed == {jobs[0].id: "crashed: ValueError: oh (mine.py, line 12)"}


def test_the_files_of_a_run_are_foreseen(tmp_path, cache):
    """What a teacher leaves; its record is left out of the forecast."""
    teacher = teacher_job(smoke("ce"), tmp_path)
    run_job(teacher)
    (real,) = earlier(tmp_path / "teachers")
    timed = job("ce", tmp_path, cache)
    (sample,), _, _ = time_runs([replace(timed, spec=teacher.spec)], 60)
    assert sample.disk == pytest.approx(real.disk, rel=.1)
    assert sample.memory > 0 and sample.around > 0 and sample.seconds > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system keeps the peak of a process")
def test_the_memory_of_a_run_is_not_that_of_a_larger_one_that_was_timed_before(tmp_path, cache, steps):
    held = torch.ones(100 * 2**20)  # 400 MB, as an earlier job would
    before = peak_memory(held.device)
    del held
    (sample,), _, _ = time_runs([job("ce", tmp_path, cache)], 60)
    assert sample.memory < before - 300 * 2**20
