"""Measurement of networks in use: their size, and their latency, throughput and energy, for which they take turns."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.method import is_text
from kdbench.networks import Network, count_parameters, saved_part, serialise
from kdbench.profile.bench import Bench, Sample, in_turns
from kdbench.profile.record import Deployment, Deployments, Quartiles

BATCH = 64
WARM_UP_CALLS = 3
LATENCY_CALLS, LATENCY_SECONDS = 20, 0.2  # of a turn, at least
THROUGHPUT_SECONDS = 0.5                  # of a turn, or more if the energy counter needs it


@torch.inference_mode()
def measure_in_use(student: nn.Module, teacher: nn.Module | None, image_shape: tuple[int, ...], bench: Bench,
            repeats: int) -> Deployments:
    """Size, latency, throughput and energy of student and teacher in use, measured in turns on random images, or on
    random texts if `image_shape` is one of texts. Without a teacher, `speedup` and `energy_saving` are None."""
    networks = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    subjects = {name: _Subject(network, image_shape, bench) for name, network in networks.items()}
    rounds = max(subject.calls for subject in subjects.values())
    for _ in range(repeats):
        laps = bench.laps({name: subject.run_one for name, subject in subjects.items()}, rounds)
        for name, subject in subjects.items():
            subject.laps.append(laps[name])
    for _, name in in_turns(subjects, repeats):
        subjects[name].run_batches()
    costs = {name: subject.cost() for name, subject in subjects.items()}
    if teacher is None:
        return Deployments(student=costs["student"], teacher=None, speedup=None, energy_saving=None)
    ours, theirs = subjects["student"], subjects["teacher"]
    return Deployments(
        student=costs["student"], teacher=costs["teacher"],
        speedup=Quartiles.of([float(np.median(t) / np.median(s))
                              for s, t in zip(ours.laps, theirs.laps, strict=True)]),
        energy_saving=energy_saving(ours.joules_per_1000(), theirs.joules_per_1000()),
    )


def energy_saving(student: list[float], teacher: list[float]) -> Quartiles | None:
    """The share of the teacher's energy that the student saves, from the energies of both by turn. None without a
    counter, or if the teacher's did not move."""
    if not teacher or min(teacher) <= 0:
        return None
    return Quartiles.of([1 - ours / theirs for ours, theirs in zip(student, teacher, strict=True)])


def _inputs(count: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Random images [B, C, H, W], or random token ids [B, T] of texts without padding."""
    if is_text(shape):
        return torch.randint(1, shape[1], (count, shape[0]), device=device)
    return torch.randn(count, *shape, device=device).contiguous(memory_format=torch.channels_last)


class _Subject:
    """A network that is measured, with its inputs and what its turns measured so far."""

    def __init__(self, network: nn.Module, image_shape: tuple[int, ...], bench: Bench):
        self.network, self.bench = network.eval(), bench
        device = next(network.parameters()).device
        self.run = as_used(network)
        self.one, self.many = (_inputs(size, image_shape, device) for size in (1, BATCH))
        self.calls = max(LATENCY_CALLS, self._calls_in(LATENCY_SECONDS, self.one))
        self.batches = self._calls_in(max(THROUGHPUT_SECONDS, bench.least_seconds), self.many)
        self.laps: list[list[float]] = []
        self.samples: list[Sample] = []

    def _calls_in(self, seconds: float, images: Tensor) -> int:
        """The number of calls, at least one, that take about that many seconds. The calls made to find out warm the
        network up."""
        laps = self.bench.laps({"warm": lambda: self.run(images)}, WARM_UP_CALLS)
        return max(1, math.ceil(seconds / laps["warm"][-1]))

    def run_one(self) -> None:
        self.run(self.one)

    def run_batches(self) -> None:
        def work() -> None:
            for _ in range(self.batches):
                self.run(self.many)

        self.samples.append(self.bench.sample(work))

    def joules_per_1000(self) -> list[float]:
        images = self.batches * BATCH
        return [1000 * sample.joules / images for sample in self.samples if sample.joules is not None]

    def cost(self) -> Deployment:
        laps, joules = [lap for turn in self.laps for lap in turn], self.joules_per_1000()
        return Deployment(
            parameters=count_parameters(self.network), flops=count_flops(self.run, self.one),
            file_bytes=len(serialise(saved_part(self.network).state_dict())),
            latency_seconds=Quartiles.of(laps), latency_p95_seconds=float(np.percentile(laps, 95)),
            throughput=Quartiles.of([self.batches * BATCH / sample.seconds for sample in self.samples]),
            joules_per_1000_images=Quartiles.of(joules) if joules else None,
        )


def as_used(network: nn.Module) -> Callable[[Tensor], object]:
    """The function that an application would call: timm's model alone, or the whole `Network` if it computes in
    bfloat16."""
    return network if isinstance(network, Network) and network.in_bfloat16 else saved_part(network)


def count_flops(run: Callable[[Tensor], object], images: Tensor) -> int:
    """The floating-point operations of convolutions, matrix products and attention in a call with these images. A
    multiply-accumulate counts as two."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode  # late: after training's memory was measured

    # Attention as matrix products: some versions of torch count nothing for the CPU's attention kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run(images)
    return counter.get_total_flops()
