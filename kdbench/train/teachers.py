"""The teacher of a run: its frozen network, its predictions, its robustness."""

import json

import torch
from safetensors.torch import load_file

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
from kdbench.spec import Teacher, TrainedTeacher, teacher_id, tutor
from kdbench.train.scoring import predictions_of


class Teachers:
    """What one job needs of the pair's teacher and of a trained copy of its student, from the cache's store of
    teachers. What a teacher with published weights predicts, and how robust it is, is computed once and kept there."""

    def __init__(self, job: Job, dataset: Dataset, normalise: Normalise, device: torch.device):
        self.job, self.dataset, self.normalise, self.device = job, dataset, normalise, device
        self.store = Store(job.cache.teachers)
        self.id = teacher_id(job.spec)

    def tutor(self) -> Network | None:
        """The frozen network that the method learns from; None if it learns from none."""
        spec = self.job.spec
        source = tutor(self.job.method.learns_from, teacher=spec.teacher, self_teacher=spec.self_teacher)
        return self._load(source) if source is not None else None

    def predictions(self) -> Predictions | None:
        """The logits of the pair's teacher on the run's images; None without a teacher."""
        teacher = self.job.spec.teacher
        if teacher is None or self.id is None:
            return None
        if not isinstance(teacher, TrainedTeacher) and not self.store.files.predictions(self.id).exists():
            made = predictions_of(self._load(teacher), self.dataset, self.normalise, self.job.spec.recipe)
            self.store.write_predictions(self.id, made)
        return self.store.read_predictions(self.id)

    def robustness(self) -> dict[str, float]:
        """The robustness metrics of the pair's teacher, as `teacher_NAME`; none without a teacher."""
        teacher = self.job.spec.teacher
        if teacher is None or self.id is None:
            return {}
        own, path = self.store.get(self.id), self.store.files.robustness(self.id)
        if isinstance(own, Record) and set(MEASURED) <= own.metrics.keys():
            found = own.metrics
        elif path.exists():
            found = json.loads(path.read_bytes())
        else:
            found = measure(self._load(teacher), self.dataset).metrics
            atomic_write(path, json.dumps(found).encode())
        return {f"teacher_{name}": found[name] for name in MEASURED}

    def _load(self, teacher: Teacher) -> Network:
        classes, shape = len(self.dataset.classes), self.dataset.image_shape
        precision = self.job.spec.recipe.precision
        if isinstance(teacher, TrainedTeacher):
            network = build(teacher.run.student, classes, shape, precision)
            network.model.load_state_dict(load_file(self.store.files.student(teacher.run.id)))
        else:
            network = load_teacher(teacher, classes, shape, precision)
        freeze(network)
        return network.to(self.device)
