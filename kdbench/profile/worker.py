"""The measurements that the process of one profile makes: of a method's training steps, and of networks in use.

Networks are freshly initialised: time does not depend on what they have learned, and no teacher need be trained.
"""

import math
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.data.base import Dataset
from kdbench.data.load import load_dataset
from kdbench.data.stream import BatchStream
from kdbench.environment import now
from kdbench.networks import Network, build, freeze
from kdbench.plugins import registry
from kdbench.plugins.source import MethodInfo
from kdbench.profile.bench import Bench
from kdbench.profile.energy import CpuTime, find_meter
from kdbench.profile.in_use import count_parameters, measure_in_use
from kdbench.profile.job import ProfileJob
from kdbench.profile.record import Profile, Quartiles, Training, write_profile
from kdbench.results.store import Store
from kdbench.seeds import derive
from kdbench.spec import Architecture, tutor
from kdbench.train.process import crash_reason, make_deterministic, peak_memory
from kdbench.train.trainer import Trainer, prepare

WARM_UP_STEPS = 2      # of a pass, untimed: the first step allocates the optimizer's state


STATISTICS_BATCHES = 5


def run_profile(job: ProfileJob) -> Profile:
    """Make the measurement of a job, and write and return its profile. An exception gives a profile with the status
    "crashed"."""
    begin = time.perf_counter()
    own: dict[str, Any] = {"subject": job.subject, "load_average": os.getloadavg()[0], "started": now()}
    try:
        measured = _measure(job)
        profile = Profile.of(job, "ok", **own, **measured, seconds=time.perf_counter() - begin)
    except Exception as error:
        profile = Profile.of(job, "crashed", crash_reason(error, job.method.file), **own,
                             traceback=traceback.format_exc(), seconds=time.perf_counter() - begin)
    write_profile(Store(job.out), profile)
    return profile


def _measure(job: ProfileJob) -> dict[str, Any]:
    """The measured fields of the profile."""
    spec, device = job.spec, make_deterministic(job.spec.device)
    bench = Bench(find_meter(spec.device, job.settings.watts_per_core), synchronise=synchroniser(device))
    dataset = load_dataset(spec.dataset, spec.recipe, job.cache.data, device, spec.transfer)
    networks = Networks(job, dataset, device)
    found: dict[str, Any] = {}
    if job.subject == "pair":
        deployed: nn.Module | None = networks.student()
    else:
        found["training"], used = _training(job, networks, bench)
        deployed = used if count_parameters(used) != count_parameters(networks.student()) else None
    if deployed is not None:  # otherwise the profile of the pair holds it
        found["deployment"] = measure_in_use(deployed, networks.teacher(), dataset.image_shape, bench,
                                             job.settings.repeats)
    if bench.meter is not None:
        found["energy_source"] = bench.meter.source
        if isinstance(bench.meter, CpuTime):
            found["watts_per_core"] = bench.meter.watts_per_core
    return found


def synchroniser(device: torch.device):
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


class Networks:
    """Builds the pair's networks, untrained, and methods to train on them."""

    def __init__(self, job: ProfileJob, dataset: Dataset, device: torch.device):
        self.spec, self.dataset, self.device = job.spec, dataset, device
        registry.load(job.method)  # registers also the user's own networks, which the pair may name

    def student(self) -> Network:
        return self._build(self.spec.student)

    def teacher(self) -> Network | None:
        return freeze_warm(self._build(self.spec.teacher.architecture), self._stream()) if self.spec.teacher else None

    def tutor(self, method: MethodInfo) -> Network | None:
        """The frozen network that the method learns from; None if it learns from none."""
        spec = self.spec
        source = tutor(method.learns_from, teacher=spec.teacher and spec.teacher.architecture,
                       self_teacher=spec.self_teacher.architecture if spec.self_teacher else spec.student)
        return freeze_warm(self._build(source), self._stream()) if source else None

    def trainer(self, method: MethodInfo, hyperparameters: dict[str, Any], tutor: Network | None) -> Trainer:
        spec = self.spec
        built, stream = prepare(registry.load(method), hyperparameters, spec.student, tutor, self.dataset,
                                spec.training, spec.seed, self.device, spec.updates, transfer=spec.transfer)
        return Trainer(built, stream, spec.training)

    def _stream(self) -> BatchStream:
        return BatchStream(self.dataset, self.spec.recipe, self.spec.seed, self.device)

    def _build(self, architecture: Architecture) -> Network:
        torch.manual_seed(derive(self.spec.seed, "profile"))
        network = build(architecture, len(self.dataset.classes), self.dataset.image_shape, self.spec.recipe.precision)
        return network.to(self.device)


@torch.no_grad()
def freeze_warm(network: Network, stream: BatchStream) -> Network:
    """Freeze the network as a teacher with BatchNorm statistics of a few batches, and return it. With the initial
    statistics the activations of a deep network overflow, and methods that use the statistics would see other values
    than in a run."""
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
    """Time, memory and energy of the method's training steps, and the network that it deploys."""
    settings, spec = job.settings, job.spec
    trainer = partial(networks.trainer, job.method, spec.hyperparameters, networks.tutor(job.method))
    first = trainer()
    run_steps, deployed, rare = first.steps, first.method.deployed(), first.method.rare_steps()
    draws = [kinds_of_steps(run_steps, rare, settings.steps, number) for number in range(settings.repeats)]
    for kind in draws[0]:
        once(first, kind)()  # not counted: this warms up, and goes through all stages
    peak = peak_memory(networks.device)
    del first

    reference = partial(networks.trainer, job.reference, job.reference.resolve({}), networks.tutor(job.reference))
    seconds = [in_step({"method": trainer, "reference": reference}, draw, bench) for draw in draws]
    joules = [math.fsum(alone(trainer(), kind, bench) for kind in draw) for draw in draws] if bench.meter else []
    pass_steps = sum(len(kind.steps) for kind in draws[0])
    return training_cost(seconds, joules, job.reference.name, pass_steps, run_steps, peak), deployed


def training_cost(seconds: list[dict[str, float]], joules: list[float], reference: str, pass_steps: int,
                  run_steps: int, peak_memory_bytes: int) -> Training:
    """The costs of training from several passes. `seconds` holds for each pass the seconds of "method" and "reference",
    which took turns; `joules` the energy of each pass of the method alone, NaN without a counter."""
    known = [value / pass_steps for value in joules if not math.isnan(value)]
    return Training(
        reference=reference, pass_steps=pass_steps, run_steps=run_steps, peak_memory_bytes=peak_memory_bytes,
        step_seconds=Quartiles.of([both["method"] / pass_steps for both in seconds]),
        reference_step_seconds=Quartiles.of([both["reference"] / pass_steps for both in seconds]),
        step_time_ratio=Quartiles.of([both["method"] / both["reference"] for both in seconds]),
        step_joules=Quartiles.of(known) if known else None,
    )


class Kind(NamedTuple):
    """Steps of a pass that are alike, either usual or rare ones."""

    steps: list[int]  # their numbers in the run, rising
    weight: float     # of each step, by which the kinds have the same shares of a pass as of the run
    begin: int        # the step to warm up with


def in_step(makers: Mapping[str, Callable[[], Trainer]], kinds: Sequence[Kind], bench: Bench) -> dict[str, float]:
    """The weighted seconds of a pass by each of several trainers, by name; they take turns at every step. Each kind of
    steps gets new trainers, for which these are the first steps."""
    found = dict.fromkeys(makers, 0.0)
    for kind in kinds:
        laps = bench.laps({name: stepper(make(), kind) for name, make in makers.items()}, len(kind.steps))
        for name, seconds in laps.items():
            found[name] += kind.weight * math.fsum(seconds)
    return found


def alone(trainer: Trainer, kind: Kind, bench: Bench) -> float:
    """The joules that the steps of one kind add to a pass by one trainer. They are measured together, several times
    over if the counter needs that. NaN without a counter."""
    joules = bench.joules(once(trainer, kind))
    return math.nan if joules is None else kind.weight * joules


def once(trainer: Trainer, kind: Kind) -> Callable[[], None]:
    """A function that takes each step of the kind once, in order. The trainer is warmed up before this returns."""
    step = stepper(trainer, kind)

    def work() -> None:
        for _ in kind.steps:
            step()

    return work


def stepper(trainer: Trainer, kind: Kind) -> Callable[[], object]:
    """A function that takes the next step of the kind at each call, and begins again after the last. The trainer takes
    WARM_UP_STEPS steps before this returns."""
    batches, numbers = _endless(trainer), cycle(kind.steps)
    trainer.method.train()
    for _ in range(WARM_UP_STEPS):
        trainer.train_step(kind.begin, next(batches))
    return lambda: trainer.train_step(next(numbers), next(batches))


def _endless(trainer: Trainer) -> Iterator[Any]:
    while True:
        yield from trainer.batches()
        trainer.epoch += 1


def kinds_of_steps(run_steps: int, rare: Sequence[int], count: int, draw: int) -> list[Kind]:
    """The steps of a pass: `count` usual steps out of all parts of a run, and one of the rare steps if there are any. A
    few draws from all steps would miss the rare ones, or have too many of them. `draw` is the seed of the choice."""
    usual = sorted(set(range(run_steps)) - set(rare)) or list(range(run_steps))
    chosen = [usual[place] for place in spread(len(usual), count, draw)]
    if len(usual) == run_steps:
        return [Kind(chosen, 1.0, 0)]
    pass_steps, one = len(chosen) + 1, random.Random(draw).choice(rare)
    return [Kind(chosen, len(usual) / run_steps * pass_steps / len(chosen), usual[0]),
            Kind([one], len(rare) / run_steps * pass_steps, usual[0])]


def spread(run_steps: int, count: int, draw: int) -> list[int]:
    """Numbers of steps in rising order: one at random from each of `count` equal parts of a run, or all if the run has
    no more than that. Every phase of a run, such as a warm-up, has its share of them, and so has, over several draws,
    what is done only every few steps. `draw` is the seed of the choice."""
    if run_steps <= count:
        return list(range(run_steps))
    generator = random.Random(draw)
    edges = [part * run_steps // count for part in range(count + 1)]
    return [generator.randrange(low, high) for low, high in pairwise(edges)]
