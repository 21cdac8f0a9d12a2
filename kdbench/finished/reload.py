"""Rebuilds the network of a finished run from its record and its saved weights, for instance to attack or export it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from kdbench.data.base import Dataset
from kdbench.data.load import load_dataset
from kdbench.disk import file_sha256
from kdbench.errors import UserError
from kdbench.folders import CacheFolder
from kdbench.networks import Network, build, freeze, saved_part
from kdbench.plugins import registry
from kdbench.plugins.source import MethodInfo
from kdbench.remote.door import bring
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.spec import tutor
from kdbench.train.trainer import prepare


def dataset_of(record: Record, cache: CacheFolder, device: str) -> Dataset:
    """The dataset that the run used, on `device`. UserError if it is not available, or if its images are no longer the
    same."""
    dataset = load_dataset(record.spec.dataset, record.spec.recipe, cache.data, torch.device(device),
                           record.spec.transfer)
    if record.dataset_digest not in (None, dataset.digest):
        raise UserError(f"run {record.run_id}: dataset {record.spec.dataset} is not what it was when the run was made: "
                        f"SHA-256 {dataset.digest[:16]}, recorded {str(record.dataset_digest)[:16]}")
    return dataset


def weights_store(record: Record, store: Store, cache: CacheFolder) -> Store:
    """The store that holds the network of a run whose record is in `store`: the cache's for a teacher, else `store`
    itself. If `store` mirrors an object store, the network is downloaded."""
    if record.role == "teacher":
        return Store(cache.teachers)
    bring(store.files.student(record.run_id))
    return store


def reload(record: Record, store: Store, info: MethodInfo, dataset: Dataset) -> nn.Module:
    """The network that the run deployed, in eval mode and without gradients, on the dataset's device.

    `store` is the result of `weights_store`. The teacher that a method learned from is rebuilt without its weights:
    whatever a deployed network keeps of it, such as SimKD's classifier, is among the saved weights. UserError if the
    run did not finish, if its saved weights are missing or not the recorded ones, or if they do not fit the network.
    """
    spec, path = record.spec, store.files.student(record.run_id)
    _check(record, path)
    device = dataset.train.labels.device
    with torch.random.fork_rng(devices=[]):
        method, _ = prepare(registry.load(info), spec.hyperparameters, spec.student, _tutor(record, info, dataset),
                            dataset, spec.training, spec.seed, device, spec.updates, transfer=spec.transfer)
    network = method.deployed().to(device)
    try:
        saved_part(network).load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        changed = "; the method's source changed since" if info.digest != record.method_digest else ""
        raise UserError(f"{path}: not the weights of what {spec.method} deploys{changed}: {error}") from error
    return freeze(network)


def _check(record: Record, path: Path) -> None:
    if record.status != "ok":
        raise UserError(f"run {record.run_id} has no network: its status is {record.status!r}")
    if not path.exists():
        raise UserError(f"{path}: no saved network of run {record.run_id}")
    if file_sha256(path) != record.weights_sha256:
        raise UserError(f"{path}: the saved network is damaged: its SHA-256 is not the one in the record")


def _tutor(record: Record, info: MethodInfo, dataset: Dataset) -> Network | None:
    """An untrained network with the architecture of the one that the method learned from; None if it learned from
    none."""
    spec = record.spec
    source = tutor(info.learns_from, teacher=spec.teacher, self_teacher=spec.self_teacher)
    if source is None:
        return None
    network = build(source.architecture, len(dataset.classes), dataset.image_shape, spec.recipe.precision)
    freeze(network)
    return network.to(dataset.train.labels.device)
