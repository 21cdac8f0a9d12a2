"""AutoAttack (Croce and Hein, 2020) on finished networks, through the optional package pyautoattack."""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from kdbench.data.base import Dataset
from kdbench.errors import UserError
from kdbench.finished.reload import dataset_of, reload, weights_store
from kdbench.folders import CacheFolder
from kdbench.plugins.source import MethodInfo
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.robustness.measure import BATCH, take_subset

RADII: dict[str, Callable[[Dataset], float]] = {  # of the attack, by metric: the same as for the PGD of runs
    "autoattack_small_accuracy": lambda dataset: dataset.small_attack_radius,
    "autoattack_accuracy": lambda dataset: dataset.attack_radius,
}


TARGETS = 9         # target classes of the standard version's targeted attacks, or all other classes if fewer


FEWEST_CLASSES = 4  # the targeted loss compares the three highest other logits


LEAST_SAME = 0.99   # share of predictions that a reloaded network must repeat: other machines round differently


@dataclass(frozen=True)
class Attacked:
    """How many records got the metrics, how many had them before, and why others could not be attacked."""

    added: int
    before: int
    problems: tuple[str, ...]


def attack(folder: Path, runs: Iterable[str], registry: Mapping[str, MethodInfo], cache: CacheFolder,
           device: str, say: Callable[[str], None]) -> Attacked:
    """Add the metrics of `RADII` to the records of finished runs: of those that `runs` names as `Store.find` takes
    them, or of all if it is empty. Metrics that a record has already are not computed again. UserError if pyautoattack
    is not installed, if a named run does not exist, or if the folder has no records; problems with single runs are
    returned."""
    need_package()
    store = Store(folder)
    if not store.files.records.is_dir():
        raise store.no_records()
    added, before = 0, 0
    problems: list[str] = []
    with store.lock():
        for record in _chosen(store, list(runs), problems):
            if RADII.keys() <= record.metrics.keys():
                before += 1
                continue
            try:
                changed = _attacked(record, store, registry, cache, device)
            except UserError as error:
                problems.append(f"run {record.run_id}: {error}")
                continue
            store.write(changed)
            added += 1
            withstand = " and ".join(f"{100 * changed.metrics[name]:.2f}%" for name in RADII)
            say(f"{record.run_id}  {record.spec.method}  {record.spec.dataset}  seed {record.spec.seed}: {withstand} "
                "withstand AutoAttack within the small and the large radius")
    return Attacked(added, before, tuple(problems))


def need_package() -> None:
    if importlib.util.find_spec("pyautoattack") is None:
        raise UserError("AutoAttack is not installed: pip install 'kdbench[attack]'")


def _chosen(store: Store, runs: list[str], problems: list[str]) -> list[Record]:
    """The records of the named runs, or if `runs` is empty of all finished ones but trials, which keep no weights; what
    is wrong with damaged records is then added to `problems`. UserError if a named run does not exist."""
    if runs:
        return [store.find(run) for run in runs]
    records, damaged = store.read()
    problems += [f"{problem.path}: {problem.reason}" for problem in damaged]
    return [record for record in records if record.status == "ok" and record.role != "trial"]


def _attacked(record: Record, store: Store, registry: Mapping[str, MethodInfo], cache: CacheFolder,
              device: str) -> Record:
    dataset = dataset_of(record, cache, device)
    if dataset.words:
        raise UserError(f"dataset {dataset.name}: AutoAttack changes images, and these are texts")
    network = reload(record, weights_store(record, store, cache), registry[record.spec.method], dataset)
    saved = store.read_predictions(record.run_id, record.predictions_sha256)["test_logits"].argmax(axis=1)
    added, notes = {}, list(record.notes)
    for name, radius in RADII.items():
        if name in record.metrics:
            continue
        added[name], warnings = autoattack(network, dataset, saved, radius(dataset))
        notes += [note for warning in warnings if (note := f"AutoAttack: {warning}") not in notes]
    return msgspec.structs.replace(record, metrics={**record.metrics, **added}, notes=notes)


def autoattack(network: nn.Module, dataset: Dataset, saved: np.ndarray, radius: float) -> tuple[float, list[str]]:
    """The share of the robustness subset that the network classifies correctly and that withstands the standard version
    of AutoAttack within an L-infinity `radius`, for pixels in 0..1; and the warnings of the attack.

    `saved` [N] are the classes that the network predicted for the test split when it was saved. UserError if it now
    predicts others for more than a share of 1 - LEAST_SAME of the subset, or if there are fewer than four classes.
    """
    from pyautoattack import AutoAttack

    classes = len(dataset.classes)
    if classes < FEWEST_CLASSES:
        raise UserError(f"dataset {dataset.name}: AutoAttack needs {FEWEST_CLASSES} classes or more, found {classes}")
    subset, model = take_subset(dataset), Pixels(network, dataset)
    pixels = subset.images.float() / 255
    predicted = torch.cat([model(part).argmax(1) for part in pixels.split(BATCH)])
    same = float((predicted.cpu().numpy() == saved[subset.positions]).mean())
    if same < LEAST_SAME:
        raise UserError(f"the reloaded network predicts {100 * same:.1f} % of the subset as it did when it was saved: "
                        "did the method's source change since?")
    right = predicted == subset.labels
    if not right.any():
        return 0.0, []
    device = pixels.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _warnings() as warnings:
        attacks = AutoAttack(model, eps=radius, norm="Linf", seed=0, device=device)
        attacks.apgd_targeted.n_target_classes = attacks.fab.n_target_classes = min(TARGETS, classes - 1)
        attacked, _ = attacks.run_standard_evaluation(pixels[right], subset.labels[right], batch_size=BATCH)
    withstood = sum(int((model(part).argmax(1) == labels).sum()) for part, labels in
                    zip(attacked.split(BATCH), subset.labels[right].split(BATCH), strict=True))
    return withstood / len(subset.labels), warnings


class Pixels(nn.Module):
    """A network that maps pixels in 0..1 [B, C, H, W], as pyautoattack has them, to logits [B, K]."""

    def __init__(self, network: nn.Module, dataset: Dataset):
        super().__init__()
        self.network, device = network, dataset.test.labels.device
        self.mean, self.std = (value.view(1, -1, 1, 1).to(device) for value in (dataset.mean, dataset.std))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels - self.mean) / self.std).logits


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """A context that collects pyautoattack's warnings, such as those of vanishing gradients, in a list instead of
    printing them."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(" ".join(record.getMessage().split()))

    logger, handler = logging.getLogger("auto-attack"), Collect(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
