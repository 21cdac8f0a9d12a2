"""A short timing of runs of which nothing is known: a few steps of each, alone and on untrained networks.

What a CPU computes is timed by the seconds that it works for this process: so few steps on a machine that others share
would else tell of these others. A run on it takes longer, too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from kdbench.data.base import Dataset, MemoryImages, Split
from kdbench.data.load import load_dataset
from kdbench.data.stream import Normalise
from kdbench.execution.estimate import Sample, this_machine
from kdbench.metrics.robustness import SUBSET
from kdbench.networks import Network, saved_part, serialise
from kdbench.profile.job import ProfileJob
from kdbench.profile.worker import Networks, kinds_of_steps, stepper, synchroniser
from kdbench.robustness.measure import measure
from kdbench.spec import Recipe
from kdbench.train.process import crash_reason, make_deterministic, peak_memory, reset_peak_memory
from kdbench.train.scoring import ON_CURVE, first_accuracy, is_on_curve, predict
from kdbench.train.trainer import Trainer

STEPS = 8       # of a method,
SECONDS = 1.0   # or as many as fit in this time, at least one
IMAGES = 50     # that stand for all that a run scores


def time_runs(jobs: Sequence[ProfileJob], seconds: float) -> tuple[list[Sample], dict[str, str], float]:
    """What the runs would take, as far as `seconds` allow to find out; by id why one cannot be timed; and the seconds
    that it took."""
    begin, samples, failed = time.perf_counter(), [], {}
    datasets: dict[str, Dataset] = {}
    around: dict[str, float] = {}
    for job in jobs:
        if time.perf_counter() - begin > seconds:
            break
        try:
            samples.append(_time(job, datasets, around))
        except Exception as error:  # of a plugin, say: its run will tell more
            failed[job.id] = crash_reason(error, job.method.file)
    return samples, failed, time.perf_counter() - begin


def _time(job: ProfileJob, datasets: dict[str, Dataset], around: dict[str, float]) -> Sample:
    """What one run would take. Datasets, and what surrounds the training of a student, are kept for further runs."""
    spec, device = job.spec, make_deterministic(job.spec.device)
    reset_peak_memory(device)
    data = f"{spec.dataset} {spec.recipe.model_dump_json()} {spec.transfer}"
    if data not in datasets:
        datasets[data] = load_dataset(spec.dataset, spec.recipe, job.cache.data, device, spec.transfer)
    dataset = datasets[data]
    networks = Networks(job, dataset, device)
    trainer = networks.trainer(job.method, spec.hyperparameters, networks.tutor(job.method))
    training = _step_seconds(trainer, device) * trainer.steps
    student = networks.student()
    scored = f"{data} {spec.training.epochs} {spec.student.model_dump_json()}"
    if scored not in around:
        around[scored] = _seconds_around(student, dataset, spec.training)
    weights = len(serialise(saved_part(student).state_dict()))
    images = len(dataset.validation) + len(dataset.test)
    return Sample(spec, training, this_machine(spec.device), "timed", around[scored], memory=peak_memory(device),
                  disk=weights + images * (4 * len(dataset.classes) + 8))  # float32 logits and an int64 label of each


def _step_seconds(trainer: Trainer, device: torch.device) -> float:
    """The mean of a few steps out of all parts of the run, of rare and usual ones by their shares of it."""
    kinds = kinds_of_steps(trainer.steps, trainer.method.rare_steps(), STEPS, 0)
    synchronise, clock, found = synchroniser(device), _clock(device), []
    for kind in kinds:
        step = stepper(trainer, kind)
        synchronise()
        begin, laps = clock(), 0
        while laps < len(kind.steps) and clock() - begin < SECONDS:
            step()
            synchronise()
            laps += 1
        found.append(len(kind.steps) * kind.weight * (clock() - begin) / laps)
    return sum(found) / sum(len(kind.steps) for kind in kinds)


def _seconds_around(student: Network, dataset: Dataset, recipe: Recipe) -> float:
    """What a run spends on validation, on predictions and on robustness, by some images for which its network is right,
    as a trained one is for most."""
    device = dataset.test.labels.device
    normalise, clock = Normalise(dataset, device), _clock(device)
    validation, test = len(dataset.validation), len(dataset.test)
    few = Split(MemoryImages(dataset.test.images.take(torch.arange(min(IMAGES, test)))), dataset.test.labels[:IMAGES])
    labels = torch.from_numpy(predict(student, few, normalise, recipe.image_size).argmax(1)).to(device)
    begin = clock()
    first_accuracy(student, few, normalise, recipe)
    predicting = (clock() - begin) / len(few)
    begin = clock()
    measure(student, replace(dataset, test=Split(few.images, labels)))
    measuring = (clock() - begin) / len(few)
    points = sum(is_on_curve(epoch, recipe.epochs) for epoch in range(1, recipe.epochs))
    predicted = points * min(validation, ON_CURVE) + validation + test
    return predicting * predicted + measuring * min(test, max(SUBSET, len(dataset.classes)))


def _clock(device: torch.device) -> Callable[[], float]:
    return time.process_time if device.type == "cpu" else time.perf_counter
