"""A short timing of runs of which nothing is known: a few steps of each, alone and on untrained networks.

On a CPU, time is the CPU time of this process: on a machine that others share, the wall time of so few steps would tell
more of the others. A run on such a machine takes longer than that.
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

STEPS = 8       # usual steps of a method that are timed
SECONDS = 1.0   # after which no further step of a kind is timed
IMAGES = 50     # images by which the time for all that a run scores is estimated


def time_runs(jobs: Sequence[ProfileJob], seconds: float) -> tuple[list[Sample], dict[str, str], float]:
    """Samples of what runs would take; by id, the reasons why runs cannot be timed; and the seconds that all this took.
    After `seconds` no further run is begun."""
    begin, samples, failed = time.perf_counter(), [], {}
    datasets: dict[str, Dataset] = {}
    around: dict[str, float] = {}
    for job in jobs:
        if time.perf_counter() - begin > seconds:
            break
        try:
            samples.append(_time(job, datasets, around))
        except Exception as error:  # of a plugin, for instance: the record of its run will say more
            failed[job.id] = crash_reason(error, job.method.file)
    return samples, failed, time.perf_counter() - begin


def _time(job: ProfileJob, datasets: dict[str, Dataset], around: dict[str, float]) -> Sample:
    """A sample of what one run would take. `datasets` and `around`, the seconds of a student's run outside its
    training, are filled for further runs that share them."""
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
    """The mean seconds of a step, from a few steps out of all parts of the run. Rare and usual steps are weighted by
    their shares of the run."""
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
    """The seconds that a run spends on validation, predictions and robustness, estimated from a few images. The
    network's own predictions serve as their labels, since a trained network is right on most images."""
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
