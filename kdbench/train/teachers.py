"""TODO."""

import json

import torch
from safetensors.torch import load_file

from kdbench import folders
from kdbench.data.base import Dataset
from kdbench.data.stream import Normalise
from kdbench.disk import atomic_write
from kdbench.execution.job import Job
from kdbench.metrics.robustness import MEASURED
from kdbench.networks import Network, build, freeze, load_teacher
from kdbench.results.predictions import Predictions
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.robustness.measure import measure
from kdbench.spec import FileTeacher, HubTeacher, TrainedTeacher, teacher_id
from kdbench.train.scoring import _predictions

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
