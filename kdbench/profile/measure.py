"""What is measured in the process of one profile: a method's training steps, and networks in use.

Networks are freshly initialised: time does not depend on what they have learned, and no teacher need be trained.
"""

import os
import random
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench import folders, registry
from kdbench.data.base import Dataset
from kdbench.data.load import load_dataset
from kdbench.data.stream import BatchStream
from kdbench.environment import environment
from kdbench.models import Network, build, freeze
from kdbench.profile.bench import Bench, Sample, in_turns
from kdbench.profile.energy import CpuTime, find_meter
from kdbench.profile.in_use import compare, count_parameters
from kdbench.profile.job import ProfileJob
from kdbench.profile.record import Profile, Quartiles, Training, write_profile
from kdbench.registry import MethodInfo
from kdbench.run import crash_reason, make_deterministic, peak_memory
from kdbench.seeds import derive
from kdbench.spec import Architecture
from kdbench.store import Status
from kdbench.train import Trainer, prepare

WARM_UP_STEPS = 2      # of a pass, untimed: the first step allocates the optimizer's state
STATISTICS_BATCHES = 5


def run_profile(job: ProfileJob) -> Profile:
    """Measure and write the profile; a failure is a profile too."""
    started, begin, load = _now(), time.perf_counter(), os.getloadavg()[0]
    found: dict[str, Any] = {}
    status: Status = "ok"
    reason = trace = None
    try:
        found = _measure(job)
    except Exception as error:
        status, reason, trace = "crashed", crash_reason(error), traceback.format_exc()
    profile = Profile(
        run_id=job.id, subject=job.subject, suite=job.suite, spec=job.spec, status=status, reason=reason,
        traceback=trace, load_average=load, seconds=time.perf_counter() - begin, method_digest=job.method.digest,
        environment=environment(job.spec.device), started=started, finished=_now(), **found,
    )
    write_profile(job.out, profile)
    return profile


def _measure(job: ProfileJob) -> dict[str, Any]:
    """The measured fields of the profile."""
    spec, device = job.spec, torch.device(job.spec.device)
    make_deterministic(device)
    bench = Bench(find_meter(spec.device, job.settings.watts_per_core), synchronise=_synchroniser(device))
    dataset = load_dataset(spec.dataset, spec.recipe, folders.data_folder(job.cache), device)
    networks = Networks(job, dataset, device)
    found: dict[str, Any] = {}
    if job.subject == "pair":
        deployed: nn.Module | None = networks.student()
    else:
        found["training"], used = _training(job, networks, bench)
        deployed = used if count_parameters(used) != count_parameters(networks.student()) else None
    if deployed is not None:  # else the pair's own profile has it
        found["deployment"] = compare(deployed, networks.teacher(), dataset.image_shape, bench, job.settings.repeats)
    if bench.meter is not None:
        found["energy_source"] = bench.meter.source
        if isinstance(bench.meter, CpuTime):
            found["watts_per_core"] = bench.meter.watts_per_core
    return found


def _synchroniser(device: torch.device):
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Networks:
    """Builds the pair's networks, untrained, and methods to train on them."""

    def __init__(self, job: ProfileJob, dataset: Dataset, device: torch.device):
        self.spec, self.dataset, self.device = job.spec, dataset, device

    def student(self) -> Network:
        return self._build(self.spec.student)

    def teacher(self) -> Network | None:
        return freeze_warm(self._build(self.spec.teacher.architecture), self._stream()) if self.spec.teacher else None

    def tutor(self, method: MethodInfo) -> Network | None:
        """The frozen network that the method learns from."""
        if method.learns_from == "student":
            return freeze_warm(self.student(), self._stream())
        return self.teacher() if method.learns_from == "teacher" else None

    def trainer(self, method: MethodInfo, hyperparameters: dict[str, Any], tutor: Network | None) -> Trainer:
        spec = self.spec
        built, stream = prepare(registry.load(method), hyperparameters, spec.student, tutor, self.dataset, spec.recipe,
                                spec.seed, self.device)
        return Trainer(built, stream, spec.recipe)

    def _stream(self) -> BatchStream:
        return BatchStream(self.dataset, self.spec.recipe, self.spec.seed, self.device)

    def _build(self, architecture: Architecture) -> Network:
        torch.manual_seed(derive(self.spec.seed, "profile"))
        network = build(architecture, len(self.dataset.classes), self.dataset.image_shape, self.spec.recipe.precision)
        return network.to(self.device)


@torch.no_grad()
def freeze_warm(network: Network, stream: BatchStream) -> Network:
    """The network as a teacher, its BatchNorm statistics those of a few batches: with the initial ones, the activations
    of a deep network overflow, and methods that use the statistics would see others than in a run."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if layers:
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = None  # an average over all batches
        network.train()
        for _, batch in zip(range(STATISTICS_BATCHES), stream.epoch(0), strict=False):
            network(batch.images)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    freeze(network)
    return network


# Training.

def _training(job: ProfileJob, networks: Networks, bench: Bench) -> tuple[Training, nn.Module]:
    """What the method's steps cost, and the network that it deploys."""
    settings, spec = job.settings, job.spec
    trainer = partial(networks.trainer, job.method, spec.hyperparameters, networks.tutor(job.method))
    first = trainer()
    run_steps, deployed = first.steps, first.method.deployed()
    one_pass(first, spread(run_steps, settings.steps, 0), bench)  # untimed: it warms up, and goes through all stages
    peak = peak_memory(networks.device)
    del first

    reference = partial(networks.trainer, job.reference, job.reference.resolve({}), networks.tutor(job.reference))
    one_pass(reference(), spread(run_steps, settings.steps, 0), bench)
    passes: dict[str, list[Sample]] = {"method": [], "reference": []}
    for number, name in in_turns(passes, settings.repeats):
        make = trainer if name == "method" else reference
        passes[name].append(one_pass(make(), spread(run_steps, settings.steps, number), bench))
    return training_cost(passes["method"], passes["reference"], job.reference.name, min(run_steps, settings.steps),
                         run_steps, peak), deployed


def training_cost(method: list[Sample], reference: list[Sample], reference_name: str, pass_steps: int, run_steps: int,
                  peak_memory_bytes: int) -> Training:
    """The figures of passes of which those with equal numbers were neighbours."""
    joules = [sample.joules / pass_steps for sample in method if sample.joules is not None]
    return Training(
        reference=reference_name, pass_steps=pass_steps, run_steps=run_steps, peak_memory_bytes=peak_memory_bytes,
        step_seconds=Quartiles.of([sample.seconds / pass_steps for sample in method]),
        reference_step_seconds=Quartiles.of([sample.seconds / pass_steps for sample in reference]),
        step_time_ratio=Quartiles.of([a.seconds / b.seconds for a, b in zip(method, reference, strict=True)]),
        step_joules=Quartiles.of(joules) if joules else None,
    )


def one_pass(trainer: Trainer, steps: list[int], bench: Bench) -> Sample:
    """What `steps` of a run cost together, on a method that is new and of which they are the first."""
    batches = _endless(trainer)
    trainer.method.train()
    for _ in range(WARM_UP_STEPS):
        trainer.train_step(0, next(batches))

    def work() -> None:
        for step in steps:
            trainer.train_step(step, next(batches))

    return bench.sample(work)


def _endless(trainer: Trainer) -> Iterator[Any]:
    while True:
        yield from trainer.batches()
        trainer.epoch += 1


def spread(run_steps: int, count: int, draw: int) -> list[int]:
    """Numbers of steps, rising: one at random of each of `count` equal parts of a run, or all if it has no more.
    Warm-ups and stages have their share in them, and over several draws so has what is done every so many steps."""
    if run_steps <= count:
        return list(range(run_steps))
    generator = random.Random(draw)
    edges = [part * run_steps // count for part in range(count + 1)]
    return [generator.randrange(low, high) for low, high in pairwise(edges)]
