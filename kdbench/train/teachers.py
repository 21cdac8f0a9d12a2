"""The teachers of a run: the frozen network that the method learns from, and the pair's teacher's predictions and
robustness."""

import hashlib
from contextlib import suppress
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load

from kdbench.data.base import Dataset
from kdbench.data.stream import Normalise
from kdbench.disk import atomic_write, read_file
from kdbench.errors import UserError
from kdbench.execution.job import Job
from kdbench.networks import Network, build, count_parameters, freeze, load_teacher
from kdbench.results.predictions import Predictions
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.robustness.measure import measure, measured
from kdbench.spec import Teacher, TrainedTeacher, teacher_id, tutor
from kdbench.train.scoring import predictions_of

SIZE = "parameters"  # the metric of a network's size


class Teachers:
    """The teachers of one job, from the cache's store of teachers: the network that the method learns from, and the
    predictions and robustness of the pair's teacher. If kdbench did not train that teacher, its predictions and
    robustness are computed once and kept in the store."""

    def __init__(self, job: Job, dataset: Dataset, normalise: Normalise, device: torch.device):
        self.job, self.dataset, self.normalise, self.device = job, dataset, normalise, device
        self.store = Store(job.cache.teachers)
        self.id = teacher_id(job.spec)

    def tutor(self) -> Network | None:
        """The frozen network that the method learns from, on the job's device; None if it learns from none. UserError
        if its weights are missing or damaged."""
        spec = self.job.spec
        source = tutor(self.job.method.learns_from, teacher=spec.teacher, self_teacher=spec.self_teacher)
        return self._load(source) if source is not None else None

    def predictions(self) -> Predictions | None:
        """The predictions of the pair's teacher on the run's images; None without a teacher. UserError if those of a
        teacher that kdbench trained are missing or damaged."""
        teacher = self.job.spec.teacher
        if teacher is None or self.id is None:
            return None
        if isinstance(teacher, TrainedTeacher):
            return self.store.read_predictions(self.id, self.store.find(self.id).predictions_sha256)
        with suppress(UserError):  # missing or damaged: they can be made again, and no record holds their digest
            return self.store.read_predictions(self.id)
        made = predictions_of(self._load(teacher), self.dataset, self.normalise, self.job.spec.recipe)
        self.store.write_predictions(self.id, made)
        return self.store.read_predictions(self.id)

    def robustness(self) -> dict[str, float]:
        """The robustness metrics and the number of parameters of the pair's teacher, as `teacher_NAME`; empty without a
        teacher. The number of parameters is missing if an older version of kdbench kept the metrics."""
        teacher = self.job.spec.teacher
        if teacher is None or self.id is None:
            return {}
        own, path = self.store.get(self.id), self.store.files.robustness(self.id)
        found, wanted = own.metrics if isinstance(own, Record) else {}, measured(self.dataset)
        if not set(wanted) <= found.keys():
            found = _read_numbers(path)
        if not set(wanted) <= found.keys():
            network = self._load(teacher)
            found = {**measure(network, self.dataset, self.job.cache.data).metrics, SIZE: count_parameters(network)}
            atomic_write(path, msgspec.json.encode(found))
        return {f"teacher_{name}": found[name] for name in (*wanted, SIZE) if name in found}

    def _load(self, teacher: Teacher) -> Network:
        classes, shape = len(self.dataset.classes), self.dataset.image_shape
        precision = self.job.spec.recipe.precision
        if isinstance(teacher, TrainedTeacher):
            network = build(teacher.run.student, classes, shape, precision)
            weights = read_file(self.store.files.student(teacher.run.id))
            if hashlib.sha256(weights).hexdigest() != self.store.find(teacher.run.id).weights_sha256:
                raise UserError(f"{self.store.files.student(teacher.run.id)} is damaged: its SHA-256 is not the one in "
                                "the record")
            network.model.load_state_dict(load(weights))
        else:
            network = load_teacher(teacher, classes, shape, precision)
        freeze(network)
        return network.to(self.device)


def _read_numbers(path: Path) -> dict[str, float]:
    """The numbers by name in a JSON file; empty if the file is missing or damaged, since they can be measured again."""
    try:
        return msgspec.json.decode(read_file(path), type=dict[str, float])
    except (OSError, msgspec.MsgspecError, RecursionError):
        return {}
