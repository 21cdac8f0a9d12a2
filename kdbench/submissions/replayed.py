"""The sandboxed process of a replay, which trains a run or predicts with its network. Nothing here scores anything.

`python -m kdbench.submissions.replayed TASK.json` reads a `Task`. Images and labels come from one file that the
replayer wrote, whose test split has shuffled labels and, for training, noise instead of images. The function by which
kdbench reads a dataset is replaced by one that returns the content of that file.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from kdbench.data import collect as collected
from kdbench.data import load as loaded
from kdbench.data.collect import Collected, Part
from kdbench.data.load import load_dataset
from kdbench.data.stream import Normalise
from kdbench.disk import atomic_write
from kdbench.execution.job import Job
from kdbench.finished.reload import reload
from kdbench.folders import CacheFolder
from kdbench.networks import saved_part, serialise
from kdbench.plugins import registry
from kdbench.plugins.registry import Registry
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Record, decode
from kdbench.results.store import Store
from kdbench.spec import RunSpec
from kdbench.submissions.task import Task
from kdbench.train.process import make_deterministic
from kdbench.train.scoring import first_accuracy, is_on_curve, predict
from kdbench.train.teachers import Teachers
from kdbench.train.trainer import Trainer, prepare


def main() -> None:
    task = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Task)
    record, data = decode(Record, Path(task.record).read_bytes()), withheld(Path(task.data))
    loaded.collect = collected.collect = lambda *_: data
    device = make_deterministic(record.spec.device)
    cache = CacheFolder(Path(task.cache))
    methods = Registry([Path(task.plugin)] if task.plugin else [])
    if task.what == "predict":
        dataset = load_dataset(record.spec.dataset, record.spec.recipe, cache.data, device)
        network = reload(record, Store(task.out), methods[record.spec.method], dataset)
        normalise = Normalise(dataset, dataset.train.labels.device)
        logits = predict(network, dataset.test, normalise, record.spec.recipe.image_size)
        np.save(Path(task.out) / "logits.npy", logits)
        return
    for name in task.teachers:  # before any code of the submission is imported
        teacher = decode(Record, Path(name).read_bytes())
        weights = trained(teacher.spec, methods[teacher.spec.method], cache, device)
        found = hashlib.sha256(weights).hexdigest()
        if found != teacher.weights_sha256:
            raise SystemExit(f"the teacher {teacher.run_id} came out with other weights ({found[:12]}, submitted "
                             f"{str(teacher.weights_sha256)[:12]})")
        store = Store(cache.teachers)
        atomic_write(store.files.student(teacher.run_id), weights)
        store.write(teacher)
    atomic_write(Store(task.out).files.student(record.run_id), trained(record.spec, methods[record.spec.method], cache,
                                                                        device))


def withheld(file: Path) -> Collected:
    """The splits in the file that the replayer wrote, in which the real test labels, or the whole test split, are
    withheld."""
    with np.load(file, allow_pickle=False) as arrays:
        splits: dict[str, Part] = {}
        for split in ("train", "validation", "test"):
            groups = {name.split("|")[2]: arrays[name] for name in arrays.files if name.startswith(f"{split}|group|")}
            images, tints = arrays[f"{split}|images"], arrays.get(f"{split}|tints")
            splits[split] = Part(images, np.arange(len(images)), arrays[f"{split}|labels"], groups, tints)
        names: dict[str, Any] = msgspec.json.decode(str(arrays["names"]))
        return Collected(tuple(names["classes"]), splits, {key: tuple(value) for key, value in names["groups"].items()},
                         words=tuple(names["words"]))


def trained(spec: RunSpec, info: MethodInfo, cache: CacheFolder, device: torch.device) -> bytes:
    """Train a run as `kdbench.train.worker` does, and return the content of its weights file."""
    dataset = load_dataset(spec.dataset, spec.recipe, cache.data, device)
    normalise = Normalise(dataset, device)
    job = Job(spec, info, "student", "replay", cache.teachers, cache)
    tutor = Teachers(job, dataset, normalise, device).tutor()
    method, stream = prepare(registry.load(info), spec.hyperparameters, spec.student, tutor, dataset, spec.training,
                             spec.seed, device, spec.updates, init=spec.init)
    trainer = Trainer(method, stream, spec.training)
    while trainer.epoch < spec.training.epochs:
        trainer.train_epoch()
        if trainer.epoch < spec.training.epochs and is_on_curve(trainer.epoch, spec.training.epochs):
            first_accuracy(method.deployed(), dataset.validation, normalise, spec.recipe)
    return serialise(saved_part(method.deployed()).state_dict())


if __name__ == "__main__":
    main()
