"""One spec to one record: seed, build, train, predict, score. Runs in a process of its own."""

import hashlib
import json
import os
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from kdbench import checkpoint, folders, registry
from kdbench.data.base import Dataset, Split, known_of_images
from kdbench.data.load import load_dataset
from kdbench.data.stream import Normalise
from kdbench.environment import environment, now
from kdbench.errors import UserError
from kdbench.job import Job
from kdbench.metrics import group_names, score, vectors
from kdbench.metrics.robustness import MEASURED
from kdbench.models import Network, build, freeze, load_teacher, serialise
from kdbench.reload import saved_part
from kdbench.robustness import measure
from kdbench.spec import FileTeacher, HubTeacher, Recipe, TrainedTeacher, teacher_id
from kdbench.store import Predictions, Record, Status, Store, atomic_write
from kdbench.train import DivergedError, Trainer, predict, prepare

VALIDATE_EACH_EPOCH = 1000  # validation images scored after each epoch; all of them after the last


def run_job(job: Job) -> Record:
    """Execute the job and write its record; a failure of the run is a record too."""
    folder = folders.checkpoint_folder(job.cache, job.spec.id)
    with _only_one(folder):
        store = Store(job.out)
        done = store.get(job.spec.id)
        if job.role == "teacher" and isinstance(done, Record) and done.status == "ok":  # another suite was faster
            return done
        record = _record(job, store, folder)
        store.write(record)
        if record.status == "ok":
            for file in ("checkpoint", "progress.json"):
                (folder / file).unlink(missing_ok=True)
        return record


def _record(job: Job, store: Store, folder: Path) -> Record:
    started, outcome = now(), {}
    notes: list[str] = []
    status: Status
    try:
        outcome = _train_and_score(job, store, folder, notes)
        status, reason, trace = "ok", None, None
    except DivergedError as error:
        status, reason, trace = "diverged", str(error), None
    except Exception as error:
        status, reason, trace = "crashed", crash_reason(error), traceback.format_exc()
    return Record(
        run_id=job.spec.id, role=job.role, suite=job.suite, spec=job.spec, status=status, reason=reason,
        traceback=trace, notes=notes, family=job.method.family, method_digest=job.method.digest,
        environment=environment(job.spec.device), started=started, finished=now(), **{"seconds": 0.0, **outcome},
    )


def _train_and_score(job: Job, store: Store, folder: Path, notes: list[str]) -> dict[str, Any]:
    """The run itself: what of its record depends on training."""
    spec, device = job.spec, torch.device(job.spec.device)
    make_deterministic(device)
    dataset = load_dataset(spec.dataset, spec.recipe, folders.data_folder(job.cache), device)
    normalise = Normalise(dataset, device)
    teacher = _tutor(job, dataset, device)
    method, stream = prepare(registry.load(job.method), spec.hyperparameters, spec.student, teacher, dataset,
                             spec.recipe, spec.seed, device)
    trainer = Trainer(method, stream, spec.recipe)
    seconds = _resume(trainer, folder / "checkpoint", job, notes)
    while trainer.epoch < spec.recipe.epochs:
        start = time.perf_counter()
        trainer.train_epoch()
        seconds += time.perf_counter() - start
        accuracy = _accuracy(method.deployed(), dataset.validation, normalise, spec.recipe)
        trainer.curves.setdefault("validation_accuracy", []).append(accuracy)
        checkpoint.save(folder / "checkpoint", {
            "trainer": trainer.state_dict(), "seconds": seconds, "made_by": _made_by(job)})
        _report(folder, trainer, accuracy, seconds)

    network = method.deployed()
    predictions = _predictions(network, dataset, normalise, spec.recipe)
    weights = serialise(saved_part(network).state_dict())
    atomic_write(store.student_path(spec.id), weights)
    memory = peak_memory(device)
    robustness = measure(network, dataset)
    return {
        "metrics": {**score(predictions, _teacher_predictions(job, dataset, normalise, device)), **robustness.metrics,
                    **_teacher_robustness(job, dataset, device)},
        "vectors": {**vectors(predictions), **robustness.vectors},
        "groups": group_names(predictions),
        "curves": trainer.curves,
        "seconds": seconds,
        "peak_memory_bytes": memory,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "predictions_sha256": store.write_predictions(spec.id, predictions),
        "dataset_digest": dataset.digest,
    }


# Teachers.

def _tutor(job: Job, dataset: Dataset, device: torch.device) -> Network | None:
    """The frozen network that the method learns from."""
    if job.method.learns_from is None or job.spec.teacher is None:
        return None
    teacher = job.spec.self_teacher if job.method.learns_from == "student" else job.spec.teacher
    assert teacher is not None
    return _load_frozen(teacher, job, dataset, device)


def _load_frozen(teacher: TrainedTeacher | HubTeacher | FileTeacher, job: Job, dataset: Dataset,
                 device: torch.device) -> Network:
    classes, shape, precision = len(dataset.classes), dataset.image_shape, job.spec.recipe.precision
    if isinstance(teacher, TrainedTeacher):
        network = build(teacher.run.student, classes, shape, precision)
        weights = load_file(Store(folders.teachers_folder(job.cache)).student_path(teacher.run.id))
        network.model.load_state_dict(weights)
    else:
        network = load_teacher(teacher, classes, shape, precision)
    freeze(network)
    return network.to(device)


def _teacher_predictions(job: Job, dataset: Dataset, normalise: Normalise, device: torch.device) -> Predictions | None:
    """What the pair's teacher says of the same images: saved by its own run, or computed once and kept."""
    kept = teacher_id(job.spec)
    if kept is None or job.spec.teacher is None:
        return None
    store = Store(folders.teachers_folder(job.cache))
    if not isinstance(job.spec.teacher, TrainedTeacher) and not store.predictions_path(kept).exists():
        network = _load_frozen(job.spec.teacher, job, dataset, device)
        store.write_predictions(kept, _predictions(network, dataset, normalise, job.spec.recipe))
    return store.read_predictions(kept)


def _teacher_robustness(job: Job, dataset: Dataset, device: torch.device) -> dict[str, float]:
    """The robustness of the pair's teacher: told by its own run, or measured once and kept."""
    kept = teacher_id(job.spec)
    if kept is None or job.spec.teacher is None:
        return {}
    store = Store(folders.teachers_folder(job.cache))
    own, path = store.get(kept), store.folder / "robustness" / f"{kept}.json"
    if isinstance(own, Record) and set(MEASURED) <= own.metrics.keys():
        found = own.metrics
    elif path.exists():
        found = json.loads(path.read_bytes())
    else:
        found = measure(_load_frozen(job.spec.teacher, job, dataset, device), dataset).metrics
        atomic_write(path, json.dumps(found).encode())
    return {f"teacher_{name}": found[name] for name in MEASURED}


# Scoring.

def _predictions(network: nn.Module, dataset: Dataset, normalise: Normalise, recipe: Recipe) -> Predictions:
    arrays: Predictions = {}
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        logits = predict(network, split, normalise, recipe.image_size)
        if not np.isfinite(logits).all():
            raise DivergedError(f"diverged: the trained network's {name} logits are not finite")
        arrays |= {f"{name}_logits": logits, f"{name}_labels": split.labels.cpu().numpy()}
    return arrays | known_of_images(dataset)


def _accuracy(network: nn.Module, split: Split, normalise: Normalise, recipe: Recipe) -> float:
    logits = predict(network, split, normalise, recipe.image_size, limit=VALIDATE_EACH_EPOCH)
    return float((logits.argmax(1) == split.labels[:len(logits)].cpu().numpy()).mean())


# The process.

def make_deterministic(device: torch.device) -> None:
    """One thread on a CPU; on a GPU deterministic kernels, and a warning for each operation that has none."""
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _resume(trainer: Trainer, path: Path, job: Job, notes: list[str]) -> float:
    """Continue from the last checkpoint, if there is a usable one; the training seconds that it took."""
    try:
        saved = checkpoint.load(path, torch.device(job.spec.device))
        if saved is None:
            return 0.0
        if saved["made_by"] != _made_by(job):
            raise ValueError("it was made by another version of the method or of torch")
    except (ValueError, OSError) as error:
        aside = Store(path.parent).set_aside(path)
        notes.append(f"the checkpoint could not be used: {error}; it was set aside as {aside} and the run started over")
        return 0.0
    trainer.load_state_dict(saved["trainer"])
    return float(saved["seconds"])


def _made_by(job: Job) -> dict[str, str]:
    return {"method": job.method.digest, "torch": str(torch.__version__)}


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process works on the same run: two suites may need one teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        flock(file, LOCK_EX)
        yield


def _report(folder: Path, trainer: Trainer, accuracy: float, seconds: float) -> None:
    """Tell the parent how far the run is, by a file: a queue's lock could die with a killed worker."""
    progress = {"epoch": trainer.epoch, "epochs": trainer.recipe.epochs, "accuracy": accuracy, "seconds": seconds}
    temporary = folder / "progress.json.tmp"
    temporary.write_text(json.dumps(progress))
    temporary.replace(folder / "progress.json")


def crash_reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, UserError):
        return f"crashed: {error}"
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return "crashed: out of memory"
    return f"crashed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def peak_memory(device: torch.device) -> int:
    """The most that this process held at a time, in bytes: allocated on a GPU, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
