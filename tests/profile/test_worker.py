"""What is measured of methods, on a clock of the tests' own: steps take what the tests say."""

import gc
import json
import time
import weakref
from itertools import count

import pytest
import torch
from support.matrices import plugin
from support.profiles import job
from torch import nn

from kdbench.data.load import load_dataset
from kdbench.method import Method
from kdbench.networks import Network
from kdbench.profile import worker as measure
from kdbench.profile.bench import Bench
from kdbench.profile.energy import CpuTime
from kdbench.profile.record import read_profile
from kdbench.profile.worker import Networks, kinds_of_steps, run_profile, spread, training_cost
from kdbench.results.store import Store
from kdbench.train.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def steps(monkeypatch):
    """Every training step by name and progress. A step of ce takes one second, one of another method three, and five
    in the second half of a run."""
    taken = []
    real = Trainer.train_step

    def train_step(self, step, batch):
        terms = real(self, step, batch)
        taken.append((self.method.name, self.method.progress))
        taken.seconds += 1 if self.method.name == "ce" else 3 if self.method.progress < .5 else 5
        return terms

    class Taken(list):
        seconds = 0.0

        def __call__(self):
            return self.seconds

    taken = Taken()
    monkeypatch.setattr(Trainer, "train_step", train_step)
    return taken


def networks(this, cache):
    return Networks(this, load_dataset(this.spec.dataset, this.spec.recipe, cache / "data", CPU), CPU)


def training(this, cache, clock):
    return measure._training(this, networks(this, cache), Bench(CpuTime(10, clock), clock))


# Which steps.

def test_steps_are_drawn_from_all_parts_of_a_run_and_rise():
    for run, parts in ((270, 40), (41, 40), (1000, 7)):
        draws = [spread(run, parts, draw) for draw in range(200)]
        for steps in draws:
            assert all(low <= step < high for step, low, high in zip(
                steps, [i * run // parts for i in range(parts)], [(i + 1) * run // parts for i in range(parts)],
                strict=True))
        if run < 300:  # each step has its chance, or work done every so many steps would be missed
            assert {step for steps in draws for step in steps} == set(range(run))
    assert spread(1000, 7, 3) == spread(1000, 7, 3) != spread(1000, 7, 4)


def test_a_run_of_fewer_steps_is_taken_whole():
    assert spread(5, 40, 1) == [0, 1, 2, 3, 4]


def test_rare_steps_are_timed_in_every_pass_and_weigh_what_they_are_of_the_run():
    rare = [0, 40, 90]
    for draw in range(20):
        usual, one = kinds_of_steps(100, rare, 20, draw)
        assert len(usual.steps) == 20 and not set(usual.steps) & set(rare) and set(one.steps) < set(rare)
        assert usual.begin == one.begin == 1  # a usual step, for a rare one takes long
        seconds = usual.weight * 20 * 1.0 + one.weight * 50.0  # of steps that take 1 s and 50 s
        assert seconds / 21 == pytest.approx((97 * 1 + 3 * 50) / 100)
    assert {kinds_of_steps(100, rare, 20, draw)[1].steps[0] for draw in range(50)} == set(rare)
    assert kinds_of_steps(100, [], 20, 3) == [(spread(100, 20, 3), 1.0, 0)]


def test_a_method_that_does_its_work_in_a_few_steps_of_a_run_costs_what_the_whole_run_does(tmp_path, cache, steps,
                                                                                           monkeypatch):
    def train_step(self, step, batch):
        steps.seconds += 500 if step in self.method.rare_steps() else 1
        return {}

    monkeypatch.setattr(Trainer, "train_step", train_step)
    monkeypatch.setattr(Method, "rare_steps", lambda self: [0, 7] if self.name == "kd" else [])
    this = job("kd", tmp_path, cache, steps=6, repeats=3)
    found, _ = training(this, cache, steps)
    run = found.run_steps
    assert found.step_seconds.median * run == pytest.approx((run - 2) + 2 * 500)
    assert found.reference_step_seconds.median == pytest.approx(1)
    assert found.step_joules.median * run == pytest.approx(10 * (run - 2 + 2 * 500))


# The figures.

def test_the_figures_are_medians_over_passes_and_the_ratio_is_within_a_pass():
    seconds = [{"method": method, "reference": reference}  # the machine was ten times slower for a while, but for both
               for method, reference in ((4.0, 2.0), (40.0, 20.0), (6.0, 2.0))]
    found = training_cost(seconds, [8.0, 80.0, 12.0], "ce", pass_steps=2, run_steps=100, peak_memory_bytes=2**20)
    assert found.step_seconds.median == 3 and found.reference_step_seconds.median == 1
    assert found.step_time_ratio.median == 2 and found.step_time_ratio.high == 2.5
    assert found.step_joules.median == 6
    assert found.metrics == {
        "step_ms": 3000, "step_time_ratio": 2, "training_seconds": 300, "training_memory_bytes": 2**20,
        "step_energy_joules": 6, "training_energy_joules": 600,
    }


def test_without_an_energy_counter_there_is_no_energy():
    found = training_cost([{"method": 1.0, "reference": 1.0}], [], "ce", 1, 10, 1)
    assert found.step_joules is None and "training_energy_joules" not in found.metrics


def test_a_method_that_does_as_the_reference_takes_as_long(tmp_path, cache, steps):
    found, _ = training(job("ce", tmp_path, cache, steps=6, repeats=2), cache, steps)
    assert found.step_time_ratio.median == 1 and found.step_seconds.median == 1


@pytest.mark.slow
def test_stages_have_their_share_in_the_step_time(tmp_path, cache, steps):
    this = job("kd", tmp_path, cache, steps=6, repeats=3)
    found, _ = training(this, cache, steps)
    assert found.step_seconds.median == pytest.approx((3 + 5) / 2)
    assert (found.step_time_ratio.median, found.step_joules.median) == (pytest.approx(4), pytest.approx(40))
    run_steps = 2 * networks(this, cache)._stream().steps_per_epoch
    assert (found.pass_steps, found.run_steps) == (6, run_steps)


# How it is measured.

def test_each_pass_begins_a_run_and_goes_through_all_of_it(tmp_path, cache):
    seen = tmp_path / "progress"
    file = plugin(tmp_path, f"open({str(seen)!r}, 'a').write(f'{{self.progress}}\\n')")
    training(job("mine", tmp_path, cache, plugins=[file], steps=7, repeats=2), cache, count().__next__)
    progress = [float(line) for line in seen.read_text().split()]
    passes = [progress[i:i + 9] for i in range(0, len(progress), 9)]
    assert len(passes) == 1 + 2 + 2  # to warm up, beside the reference, alone for the energy
    for values in passes:
        assert values[:2] == [0, 0]
        assert values[2:] == sorted(values[2:]) and values[-1] < 1
        assert [int(7 * value) for value in values[2:]] == list(range(7))


def test_memory_is_read_before_the_reference_is_built_then_each_step_is_taken_by_both(tmp_path, cache, steps,
                                                                                     monkeypatch):
    monkeypatch.setattr(measure, "peak_memory", lambda device: steps.append(("memory", 0)) or 12345)
    found, _ = training(job("kd", tmp_path, cache, steps=4, repeats=1), cache, steps)
    names = [name for name, _ in steps]
    warm_up, both = 2 * ["kd"] + 2 * ["ce"], ["kd", "ce", "ce", "kd", "kd", "ce", "ce", "kd"]
    assert names == [*6 * ["kd"], "memory", *warm_up, *both, *6 * ["kd"]]
    taken = steps[11:19]
    assert sorted(p for name, p in taken if name == "kd") == sorted(p for name, p in taken if name == "ce")
    assert found.peak_memory_bytes == 12345


@pytest.mark.slow
def test_a_machine_that_changes_its_speed_within_a_pass_does_so_for_both(tmp_path, cache, steps):
    def clock():  # ten times as slow for every other 20 seconds: a pass of ce alone would fall into one of them
        fast, slow = divmod(steps.seconds, 40)
        return 220 * fast + min(slow, 20) + 10 * max(0, slow - 20)

    found, _ = training(job("kd", tmp_path, cache, steps=16, repeats=3), cache, clock)
    assert found.step_time_ratio.median == pytest.approx(4, rel=.15)


def test_without_a_counter_no_pass_is_made_for_the_energy(tmp_path, cache, steps):
    this = job("kd", tmp_path, cache, steps=4, repeats=3)
    measure._training(this, networks(this, cache), Bench(None, steps))
    assert [name for name, _ in steps].count("kd") == (1 + 3) * (4 + 2)


def test_a_teacher_has_the_statistics_of_real_batches_and_is_frozen(tmp_path, cache):
    teacher = networks(job("kd", tmp_path, cache), cache).teacher()
    assert isinstance(teacher, Network) and not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    layers = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers and all(layer.running_mean.abs().sum() > 0 and layer.momentum == .1 for layer in layers)


def test_nothing_of_a_step_is_kept_while_the_next_is_measured(tmp_path, cache, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Terms(dict):
        __hash__ = object.__hash__

    def train_step(self, step, batch):
        most.append(len(alive))
        terms = Terms()
        alive.add(terms)
        return terms

    monkeypatch.setattr(Trainer, "train_step", train_step)
    training(job("kd", tmp_path, cache, steps=8, repeats=1), cache, count().__next__)
    assert max(most) == 0


def test_trainers_of_earlier_passes_are_gone_while_the_teacher_stays(tmp_path, cache):
    this = job("kd", tmp_path, cache)
    found = networks(this, cache)
    tutor = found.tutor(this.method)
    first = found.trainer(this.method, this.spec.hyperparameters, tutor)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None and tutor is not None


def test_a_counter_that_needs_longer_than_a_pass_gives_the_energy_of_a_pass(tmp_path, cache, steps, monkeypatch):
    this = job("kd", tmp_path, cache, steps=2, repeats=1)
    found, _ = training(this, cache, steps)
    monkeypatch.setattr(CpuTime, "least_seconds", 20)
    longer, _ = training(this, cache, steps)
    assert longer.step_joules.median == pytest.approx(found.step_joules.median)


def test_a_method_s_tutor_is_the_network_that_it_learns_from(tmp_path, cache):
    sizes = {}
    for method in ("ce", "kd", "ban"):
        this = job(method, tmp_path, cache)
        tutor = networks(this, cache).tutor(this.method)
        sizes[method] = tutor and sum(p.numel() for p in tutor.parameters())
    of = networks(job("kd", tmp_path, cache), cache)
    student, teacher = (sum(p.numel() for p in network.parameters()) for network in (of.student(), of.teacher()))
    assert sizes == {"ce": None, "kd": teacher, "ban": student} and student < teacher


# A profile.

def test_a_method_s_profile_is_written_and_nothing_else_is(tmp_path, cache):
    before = {path for path in cache.rglob("*") if path.is_file()}
    this = job("kd", tmp_path, cache, steps=4, repeats=2, watts_per_core=7.0)
    start = time.perf_counter()
    found = run_profile(this)
    assert 0 < found.seconds <= time.perf_counter() - start
    assert (found.status, found.run_id) == ("ok", this.spec.id), found.traceback
    assert read_profile(Store(tmp_path), this.id) == found
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        f"profile/{this.id}.json"]  # no record of a run,
    assert {path for path in cache.rglob("*") if path.is_file()} == before  # and no trained teacher
    assert found.training.step_time_ratio.count == 2 and found.deployment is None
    assert found.environment["threads"] == 1
    if found.energy_source == "estimate":
        assert found.watts_per_core == 7.0
    assert all(value > 0 for value in found.metrics.values())


def test_a_pair_s_profile_has_student_and_teacher(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("kdbench.profile.in_use.LATENCY_SECONDS", .01)
    monkeypatch.setattr("kdbench.profile.in_use.THROUGHPUT_SECONDS", .01)
    this = job("kd", tmp_path, cache, subject="pair", repeats=2)
    found = run_profile(this)
    assert found.status == "ok", found.traceback
    assert (found.run_id, found.training) == (this.spec.cell, None)
    student, teacher = found.deployment.student, found.deployment.teacher
    assert student.parameters < teacher.parameters and student.flops < teacher.flops
    assert student.file_bytes < teacher.file_bytes


@pytest.mark.slow
def test_a_method_that_deploys_another_network_has_that_measured_too(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("kdbench.profile.in_use.LATENCY_SECONDS", .01)
    monkeypatch.setattr("kdbench.profile.in_use.THROUGHPUT_SECONDS", .01)
    found = run_profile(job("simkd", tmp_path, cache, steps=2, repeats=1))
    plain = networks(job("ce", tmp_path, cache), cache).student()
    assert found.deployment.student.parameters > sum(p.numel() for p in plain.parameters())
    assert {"step_ms", "latency_ms", "speedup"} <= found.metrics.keys()


def test_a_method_that_fails_leaves_a_profile_that_says_why(tmp_path, cache):
    file = plugin(tmp_path, "raise ValueError('oh')")
    found = run_profile(job("mine", tmp_path, cache, plugins=[file]))
    assert (found.status, found.reason) == ("crashed", "crashed: ValueError: oh (mine.py, line 12)")
    assert "oh" in found.traceback and found.metrics == {}
    assert json.loads((tmp_path / "profile" / f"{found.run_id}.json").read_text())["status"] == "crashed"
