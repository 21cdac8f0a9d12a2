"""One run, from its spec to its record, in a process of its own: build, train, predict, score."""

import hashlib
import time
import traceback
from contextlib import suppress
from typing import Any

import torch

from kdbench.data.base import Dataset
from kdbench.data.load import load_dataset
from kdbench.data.stream import Normalise
from kdbench.disk import atomic_write, set_aside, sweep
from kdbench.environment import now
from kdbench.errors import UserError
from kdbench.execution.job import Job
from kdbench.folders import RunFolder
from kdbench.metrics.answers import answers
from kdbench.metrics.catalog import score, vectors
from kdbench.metrics.groups import group_names
from kdbench.metrics.predictions import accuracy
from kdbench.networks import count_parameters, saved_part, serialise, weights_sha256
from kdbench.plugins import registry
from kdbench.results.predictions import Predictions
from kdbench.results.record import Record, as_recorded
from kdbench.results.store import Store
from kdbench.results.unfinished import Progress
from kdbench.robustness.measure import measure
from kdbench.train import checkpoint
from kdbench.train.process import (
    TELL_EVERY,
    crash_reason,
    make_deterministic,
    nondeterminism_noted,
    only_one,
    peak_memory,
    report_progress,
    report_start,
)
from kdbench.train.scoring import (
    Stop,
    first_accuracy,
    first_stop,
    is_on_curve,
    last_accuracy,
    predictions_of,
    validation_of,
)
from kdbench.train.teacher_pass import find_pass
from kdbench.train.teachers import Teachers
from kdbench.train.trainer import DivergedError, Trainer, prepare, unlabelled_share


def run_job(job: Job) -> Record:
    """Run the job, write its record and return it. A run that fails gets a record too; a teacher that is already
    finished is not trained again."""
    folder, store = job.cache.unfinished(job.id), Store(job.out)
    with only_one(folder):
        sweep(folder.root)
        sweep(job.out, name=job.id)  # only this run's: other processes write to the folder of teachers too
        done = store.get(job.id)
        if job.role == "teacher" and isinstance(done, Record) and done.status == "ok":  # by another suite
            return done
        record = _record(job, store, folder)
        store.write(record)
        if record.status in ("ok", "pruned"):
            for path in (folder.checkpoint, folder.progress):
                with suppress(OSError):  # the run is finished even if they cannot be removed
                    path.unlink()
        return record


def _record(job: Job, store: Store, folder: RunFolder) -> Record:
    notes: list[str] = []
    own: dict[str, Any] = {"role": job.role, "notes": notes, "started": now()}
    try:
        start = report_start(job, folder, own["started"])
        with nondeterminism_noted(notes):
            return Record.of(job, **{"status": "ok", **own, **_train_and_score(job, store, folder, start, notes)})
    except DivergedError as error:
        return Record.of(job, "diverged", str(error), **own)
    except Exception as error:
        return Record.of(job, "crashed", crash_reason(error, job.method.file), **own, traceback=traceback.format_exc())


def _train_and_score(job: Job, store: Store, folder: RunFolder, start: Progress, notes: list[str]) -> dict[str, Any]:
    """Train and score the run, and return the fields of its record that depend on training."""
    spec, device = job.spec, make_deterministic(job.spec.device)
    cls = registry.load(job.method)  # and the user's own networks, one of which the teacher may be
    dataset = load_dataset(spec.dataset, spec.recipe, job.cache.data, device, spec.transfer)
    normalise = Normalise(dataset, device)
    teachers = Teachers(job, dataset, normalise, device)
    tutor, share = teachers.tutor(), job.teacher_pass
    keep = None if tutor is None or share is None else find_pass(
        job.cache, spec, share, tutor, dataset, notes.append, unlabelled_share(spec.transfer, job.method))
    method, stream = prepare(cls, spec.hyperparameters, spec.student, tutor, dataset, spec.training, spec.seed, device,
                             spec.updates, keep, spec.transfer, spec.init)
    trainer = Trainer(method, stream, spec.training)
    taught = tutor and weights_sha256(tutor.state_dict())
    seconds = _resume(trainer, folder, _made_by(job, dataset), device, notes)
    saved, cost, told = seconds, 0.0, 0.0  # cost: seconds that the last checkpoint took
    # The whole curve is checked: the process that left a checkpoint may have had other thresholds.
    while not (stop := first_stop(trainer.curves, job.stop_below)) and trainer.epoch < spec.training.epochs:
        began = time.perf_counter()
        trainer.train_epoch()
        seconds += time.perf_counter() - began
        if trainer.epoch < spec.training.epochs and is_on_curve(trainer.epoch, spec.training.epochs):
            _validated(trainer, first_accuracy(method.deployed(), dataset.validation, normalise, spec.recipe))
        if time.monotonic() - told >= TELL_EVERY:
            report_progress(folder, start, trainer, seconds)
            told = time.monotonic()
        if seconds - saved >= checkpoint.EVERY * max(1.0, cost / checkpoint.CHEAP):
            began = time.perf_counter()
            checkpoint.save(folder.checkpoint, {
                "trainer": trainer.state_dict(), "seconds": seconds, "made_by": _made_by(job, dataset)})
            saved, cost = seconds, time.perf_counter() - began
    if tutor and weights_sha256(tutor.state_dict()) != taught:
        raise UserError(f"{type(method).__name__} ({job.method.file.name}) changed the weights or statistics of its "
                        "teacher, which every method must leave as they are")
    if stop:
        return _pruned(trainer, stop, seconds, dataset)

    network = method.deployed()
    if job.role == "trial":
        return _scored_trial(trainer, validation_of(network, dataset, normalise, spec.recipe), seconds, dataset)
    predictions = predictions_of(network, dataset, normalise, spec.recipe)
    _validated(trainer, last_accuracy(predictions))
    weights = serialise(saved_part(network).state_dict())
    atomic_write(store.files.student(job.id), weights)
    memory = peak_memory(device)
    robustness = measure(network, dataset, job.cache.data)
    return {
        "metrics": as_recorded({
            **score(predictions, teachers.predictions()), **robustness.metrics, **teachers.robustness(),
            **trainer.relative_passes(), "parameters": count_parameters(network),
            "deployed_size": count_parameters(network) / count_parameters(method.student)}, spec.device),
        "vectors": {**vectors(predictions), **robustness.vectors},
        "groups": group_names(predictions),
        "answers": answers(predictions),
        "curves": trainer.curves,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "predictions_sha256": store.write_predictions(job.id, predictions),
        **_of_dataset(dataset),
        "split_sizes": {**_seen(dataset), "test": len(dataset.test)},
    }


def _of_dataset(dataset: Dataset) -> dict[str, Any]:
    """The fields of a record that say which images the run saw, without the test split, which a trial does not see."""
    return {"dataset_digest": dataset.digest, "classes": dataset.classes, "split_sizes": _seen(dataset)}


def _seen(dataset: Dataset) -> dict[str, int]:
    more = {} if dataset.unlabelled is None else {"unlabelled": len(dataset.unlabelled)}
    return {"train": len(dataset.train), **more, "validation": len(dataset.validation)}


def _scored_trial(trainer: Trainer, predictions: Predictions, seconds: float, dataset: Dataset) -> dict[str, Any]:
    """The fields of a trial's record. Tuning chooses among trials by the accuracy on all validation images. A trial
    keeps neither its network nor its predictions, and never sees the test split."""
    _validated(trainer, last_accuracy(predictions))
    logits, labels = predictions["validation_logits"], predictions["validation_labels"]
    return {"metrics": {"validation_accuracy": accuracy(logits, labels)}, "curves": trainer.curves, "seconds": seconds,
            "peak_memory_bytes": peak_memory(trainer.stream.device), **_of_dataset(dataset)}


def _pruned(trainer: Trainer, stop: Stop, seconds: float, dataset: Dataset) -> dict[str, Any]:
    """The fields of the record of a run that was stopped because its validation accuracy was too low. It has no
    metrics, which describe fully trained networks. Its curves end at the epoch after which it was stopped, even if a
    checkpoint went further."""
    beyond, points = trainer.epoch - stop.epoch, trainer.curves["validation_epoch"].index(stop.epoch) + 1
    curves = {name: values[:points if name.startswith("validation_") else max(len(values) - beyond, 0)]
              for name, values in trainer.curves.items()}
    reason = (f"pruned after epoch {stop.epoch} of {trainer.recipe.epochs}: its best validation accuracy, "
              f"{stop.accuracy:.2%}, is below {stop.threshold:.2%}, the median of earlier trials")
    return {"status": "pruned", "reason": reason, "curves": curves, "seconds": seconds,
            "peak_memory_bytes": peak_memory(trainer.stream.device), **_of_dataset(dataset)}


def _validated(trainer: Trainer, accuracy: float) -> None:
    """Add the validation accuracy after the last finished epoch to the run's curves."""
    trainer.curves.setdefault("validation_accuracy", []).append(accuracy)
    trainer.curves.setdefault("validation_epoch", []).append(trainer.epoch)


def _resume(trainer: Trainer, folder: RunFolder, made_by: dict[str, str], device: torch.device,
            notes: list[str]) -> float:
    """Restore the trainer from the run's checkpoint, if there is a usable one, and return the seconds of training that
    it took; else 0. An unusable checkpoint is set aside, with a note."""
    try:
        saved = checkpoint.load(folder.checkpoint, device)
        if saved is None:
            return 0.0
        if differs := [what for what in made_by if saved["made_by"].get(what) != made_by[what]]:
            raise ValueError(f"it was made by another {' and another '.join(differs)}")
    except (ValueError, OSError) as error:
        aside = set_aside(folder.checkpoint)
        notes.append(f"the checkpoint could not be used: {error}; it was set aside as {aside} and the run started over")
        return 0.0
    trainer.load_state_dict(saved["trainer"])
    return float(saved["seconds"])


def _made_by(job: Job, dataset: Dataset) -> dict[str, str]:
    """What a checkpoint must have in common with the run that continues from it, by the names used in messages."""
    return {"format": "3", "run": job.id, "version of the method": job.method.digest, "dataset": dataset.digest,
            "version of torch": str(torch.__version__)}
