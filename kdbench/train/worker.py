"""One spec to one record: seed, build, train, predict, score. Runs in a process of its own."""

import hashlib
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from kdbench import folders
from kdbench.data.load import load_dataset
from kdbench.data.stream import Normalise
from kdbench.disk import atomic_write
from kdbench.environment import environment, now
from kdbench.execution.job import Job
from kdbench.metrics.catalog import score, vectors
from kdbench.metrics.groups import group_names
from kdbench.networks import saved_part, serialise
from kdbench.plugins import registry
from kdbench.results.record import Record, Status
from kdbench.results.store import Store
from kdbench.robustness.measure import measure
from kdbench.train import checkpoint
from kdbench.train.process import _only_one, _report, crash_reason, make_deterministic, peak_memory
from kdbench.train.scoring import _accuracy, _predictions
from kdbench.train.teachers import _teacher_predictions, _teacher_robustness, _tutor
from kdbench.train.trainer import DivergedError, Trainer, prepare


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
