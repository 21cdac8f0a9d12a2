"""Networks in use: sizes against hand-computed ones, times on a clock of the tests' own."""

import pytest
import torch
from safetensors.torch import load
from torch import nn

from kdbench.networks import Network, build, serialise
from kdbench.profile.bench import Bench, Sample, in_turns
from kdbench.profile.energy import CpuTime
from kdbench.profile.in_use import BATCH, as_used, count_flops, count_parameters, energy_saving, measure_in_use
from kdbench.spec import Architecture


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """Takes `seconds` of the clock per call, whatever the batch; has 3 x 5 + 5 parameters and a buffer."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, []
        self.linear = nn.Linear(3, 5)
        self.register_buffer("seen", torch.zeros(7))

    def forward(self, images):
        assert not self.training and torch.is_inference_mode_enabled()
        self.clock.now += self.seconds
        self.calls.append(len(images))
        return self.linear(images.mean((2, 3)))


# The bench.

def test_a_sample_is_time_and_energy_of_the_work_alone():
    clock = Clock()
    bench = Bench(CpuTime(10, clock), clock)
    clock.now = 3.0

    def work():
        clock.now += 2.0

    assert bench.sample(work) == Sample(2.0, 20.0)
    assert bench.laps({"work": work}, 3) == {"work": [2.0] * 3}
    assert Bench(None, clock).sample(work) == Sample(2.0, None)


def test_energy_of_short_work_is_measured_for_as_long_as_the_counter_needs():
    clock = Clock()

    class Slowly(CpuTime):  # 10 W, and a reading that is renewed every 0.1 s
        least_seconds = 2.0

        def joules(self):
            return clock.now // .1

    calls = []

    def work():
        calls.append(clock.now)
        clock.now += .09

    assert Bench(Slowly(), clock).joules(work) == pytest.approx(.9, rel=.1)
    assert len(calls) == 23
    assert Bench(CpuTime(10, clock), clock).joules(work) == pytest.approx(.9) and len(calls) == 24
    assert Bench(None, clock).joules(work) is None


def test_the_wait_for_a_gpu_is_in_the_time():
    clock = Clock()

    def wait():
        clock.now += 1.0

    assert Bench(None, clock, wait).laps({"work": lambda: None}, 2) == {"work": [1.0, 1.0]}


def test_turns_go_forwards_and_backwards():
    assert list(in_turns(["a", "b"], 3)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


# Sizes.

def test_flops_are_two_per_multiply_accumulate():
    convolution = nn.Conv2d(3, 8, 3, padding=1, stride=2)
    assert count_flops(convolution, torch.zeros(1, 3, 6, 10)) == 2 * (3 * 5) * 8 * (3 * 3 * 3)
    assert count_flops(nn.Linear(7, 11), torch.zeros(1, 7)) == 2 * 7 * 11
    grouped = nn.Conv2d(6, 6, 3, padding=1, groups=6)
    assert count_flops(grouped, torch.zeros(1, 6, 4, 4)) == 2 * 16 * 6 * 9


def test_flops_of_a_transformer_hold_its_attention():
    width, tokens, heads = 16, 5, 2
    query = torch.zeros(1, heads, tokens, width // heads)
    attention = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda q: attention(q, q, q), query) == 2 * (2 * tokens * tokens * width)


def test_parameters_and_file_of_a_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    assert count_parameters(network) == 3 * 4 * 9 + 4 + 4 + 16 * 2 + 2
    content = serialise(network.state_dict())
    header = 8 + int.from_bytes(content[:8], "little")
    assert len(content) == header + 4 * (count_parameters(network) + 4 + 4) + 8  # running mean and variance; a counter
    assert load(content).keys() == network.state_dict().keys()


def test_a_network_is_used_as_timm_s_model_unless_that_loses_its_precision():
    architecture = Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 4, "channels": [4, 8, 8]})
    network = build(architecture, 3, (3, 8, 8))
    assert as_used(network) is network.model
    half = build(architecture, 3, (3, 8, 8), "bfloat16")
    assert as_used(half) is half and isinstance(half, Network)


# Times.

@pytest.mark.slow
def test_latency_throughput_energy_and_what_is_saved_are_those_of_the_clock():
    clock = Clock()
    student, teacher = Slow(clock, 0.002), Slow(clock, 0.006)
    found = measure_in_use(student, teacher, (3, 4, 4), Bench(CpuTime(10, clock), clock), repeats=3)
    assert found.student.latency_seconds.median == pytest.approx(.002)
    assert found.student.latency_p95_seconds == pytest.approx(.002)
    assert found.student.throughput.median == pytest.approx(BATCH / .002)
    assert found.student.joules_per_1000_images.median == pytest.approx(1000 * .002 * 10 / BATCH)
    assert found.teacher.latency_seconds.median == pytest.approx(.006)
    assert found.speedup.median == pytest.approx(3) and found.speedup.count == 3
    assert found.energy_saving.median == pytest.approx(2 / 3)
    assert found.metrics["latency_ms"] == pytest.approx(2) and found.metrics["flops"] == 2 * 3 * 5
    assert found.student.parameters == 20 and found.student.latency_seconds.count == 3 * 100  # 0.2 s a turn


@pytest.mark.slow
def test_the_95th_percentile_is_of_single_calls():
    clock = Clock()

    class Hiccups(Slow):
        def forward(self, images):
            self.seconds = 0.1 if len(self.calls) % 10 == 0 else 0.01
            return super().forward(images)

    found = measure_in_use(Hiccups(clock, 0.01), None, (3, 4, 4), Bench(None, clock), repeats=4)
    assert found.student.latency_seconds.median == pytest.approx(.01)
    assert found.student.latency_p95_seconds == pytest.approx(.1)


def test_without_a_teacher_or_a_counter_there_is_nothing_to_compare():
    clock = Clock()
    found = measure_in_use(Slow(clock, 0.01), None, (3, 4, 4), Bench(None, clock), repeats=2)
    assert (found.teacher, found.speedup, found.energy_saving) == (None, None, None)
    assert found.student.joules_per_1000_images is None
    assert "energy_per_1000_images" not in found.metrics and "speedup" not in found.metrics
    assert energy_saving([1.0], [0.0]) is None
