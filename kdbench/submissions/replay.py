"""Runs submitted runs again, while they cannot see the test images, and compares the weights.

What a method learns must not depend on the test split. So the run is trained with random images and labels in its
place: the weights of an honest one come out as they were recorded, and those of one that looked come out otherwise.
The process is given nothing that tells of the real test split. Then another process predicts the real test images with
these weights, without their labels, and the logits are compared with the submitted ones.
"""

import hashlib
import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from kdbench.data import collect
from kdbench.disk import file_sha256
from kdbench.environment import environment
from kdbench.finished.verify import DEVIATIONS, FEWEST_SEEDS, environment_changes
from kdbench.folders import CacheFolder
from kdbench.metrics.predictions import accuracy
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.submissions.check import Checked, Finding
from kdbench.submissions.package import teachers_of
from kdbench.submissions.sandbox import Ended, Sandbox
from kdbench.submissions.task import Task

CHILD = "kdbench.submissions.replayed"
PEEKS = ("its weights depend on something that a run may not depend on, such as the test images, which were withheld "
         "here, the time, or the machine")


@dataclass(frozen=True)
class Replayed:
    """How a run came out; `equal`: with the recorded weights and predictions."""

    run: str
    equal: bool
    finding: Finding


def draw(own: list[Record], count: int, seed: int, sha256: str) -> list[Record]:
    """So many finished runs, the same for everybody who draws with that seed from that file."""
    finished = sorted((one for one in own if one.status == "ok"), key=lambda one: one.run_id)
    return random.Random(f"{seed} {sha256}").sample(finished, min(count, len(finished)))


def replay(done: Checked, runs: list[Record], folder: Path, cache: CacheFolder, seconds: float) -> Iterator[Replayed]:
    """Run each of `runs` again in a sandbox, with `folder`, an empty one, as its place. `cache` gives the datasets and
    the teachers. This executes the submitter's code."""
    sandbox = Sandbox()
    for number, record in enumerate(runs):
        place = folder / str(number)
        place.mkdir()
        yield _replay(done, record, place, cache, sandbox, seconds)


def _replay(done: Checked, record: Record, place: Path, cache: CacheFolder, sandbox: Sandbox,
            seconds: float) -> Replayed:
    spec, method = record.spec, done.infos[record.spec.method]
    name = f"run {record.run_id} ({spec.method}, seed {spec.seed}, {spec.pair}, {spec.dataset})"

    def ended(refused: bool, why: str, remedy: str = "", equal: bool = False) -> Replayed:
        return Replayed(record.run_id, equal, Finding(refused, "replay", f"{name}: {why}", remedy))

    if method.class_name == "":
        assert done.manifest is not None
        return ended(True, f"its package is not installed here: {done.manifest.requirement}",
                     "install it, then replay")
    own = CacheFolder(place / "cache")
    own.data.mkdir(parents=True)
    real = collect.collect(collect.parse(spec.dataset), cache.data, spec.recipe.train_size)
    _write_data(place / "train.npz", real, blind=True)
    missing = [run.id for run in teachers_of(spec) if not _lent(run.id, done.store, Store(cache.teachers), Store(own.teachers))]
    (place / "records").mkdir()
    for run in (record.run_id, *missing):
        shutil.copyfile(done.store.files.record(run), place / "records" / f"{run}.json")
    plugin = None
    if method.module is None:
        plugin = str(place / method.file.name)
        shutil.copyfile(method.file, plugin)
    task = Task(what="train", record=str(place / "records" / f"{record.run_id}.json"),
                teachers=[str(place / "records" / f"{run}.json") for run in missing], data=str(place / "train.npz"),
                plugin=plugin, cache=str(own.root), out=str(place / "out"))
    end = _run(sandbox, task, place, spec.device, seconds)
    weights = Store(place / "out").files.student(record.run_id)
    if end.code != 0 or not weights.is_file() or weights.is_symlink():
        return ended(True, f"{_why(end, seconds)} (in {sandbox.told(spec.device)})", "run it again from an empty cache")
    found = file_sha256(weights)
    here = msgspec.structs.replace(record, environment=environment(spec.device))
    changes = environment_changes(record, here)
    if found != record.weights_sha256 and not changes:
        return ended(True, f"it came out with other weights (SHA-256 {found[:12]}, submitted "
                     f"{str(record.weights_sha256)[:12]}), though machine and versions are the same: {PEEKS}",
                     "a method may read what `losses` and `step` are given, and nothing else")
    again = msgspec.structs.replace(record, weights_sha256=found)
    (place / "records" / f"{record.run_id}.json").write_bytes(again.to_json())
    (place / "train.npz").unlink()
    _write_data(place / "test.npz", real, blind=False)
    end = _run(sandbox, msgspec.structs.replace(task, what="predict", teachers=[], data=str(place / "test.npz")), place,
               spec.device, seconds)
    logits = _logits(place / "out" / "logits.npy")
    if end.code != 0 or logits is None:
        return ended(True, f"its network cannot predict: {_why(end, seconds)}", "run it again from an empty cache")
    saved = done.store.read_predictions(record.run_id, record.predictions_sha256)["test_logits"]
    if found == record.weights_sha256:
        if logits.shape == saved.shape and np.array_equal(logits, saved):
            return ended(False, f"the same weights and test predictions, bit by bit (in {sandbox.told(spec.device)})",
                         equal=True)
        if not changes:
            return ended(True, "its weights are the submitted ones, and the test predictions that they give are not",
                         "submit the predictions that the run saved")
    return _by_noise(done, record, logits, real.splits["test"].labels, changes, ended)


def _by_noise(done: Checked, record: Record, logits: np.ndarray, labels: np.ndarray, changes: list[str],
              ended: Callable[..., Replayed]) -> Replayed:
    """Where bits cannot be compared: whether the accuracy is what another seed might give."""
    spec = record.spec
    seeds = [one.metrics["test_accuracy"] for one in done.own if one.status == "ok" and (
        one.spec.cell, one.spec.method, one.spec.hyperparameters) == (spec.cell, spec.method, spec.hyperparameters)]
    was, now = record.metrics["test_accuracy"], accuracy(logits, labels)
    noise = DEVIATIONS * math.sqrt(2) * float(np.std(seeds, ddof=1)) if len(seeds) >= FEWEST_SEEDS else math.nan
    told = (f"bits cannot be compared, since machine or versions are others ({', '.join(changes)}); trained without the "
            f"test images it has {now:.2%} test accuracy, submitted {was:.2%}")
    if math.isnan(noise):
        return ended(False, f"{told}; {FEWEST_SEEDS} seeds are needed to tell noise, it has {len(seeds)}")
    if abs(now - was) <= noise:
        return ended(False, f"{told}: within what two of its seeds differ by, ± {noise:.2%}")
    return ended(True, f"{told}: beyond what two of its seeds differ by, ± {noise:.2%}; {PEEKS}",
                 "a method may read what `losses` and `step` are given, and nothing else")


def _run(sandbox: Sandbox, task: Task, place: Path, device: str, seconds: float) -> Ended:
    file = place / f"{task.what}.json"
    file.write_bytes(msgspec.json.encode(task))
    return sandbox.run(CHILD, [str(file)], place, device, seconds)


def _why(end: Ended, seconds: float) -> str:
    if end.code is None:
        return f"it took more than {seconds:.0f} seconds"
    last = (end.said.strip().splitlines() or ["it said nothing"])[-1]
    return f"it did not finish (exit code {end.code}): {last[:300]}"


def _logits(file: Path) -> np.ndarray | None:
    """The logits that a sandboxed process left; None if it left no array."""
    try:
        if file.is_symlink():
            return None
        found = np.load(file, allow_pickle=False)
        return found if isinstance(found, np.ndarray) and found.ndim == 2 and found.dtype == np.float32 else None
    except (OSError, ValueError, EOFError):
        return None


def _lent(run: str, submitted: Store, cached: Store, own: Store) -> bool:
    """Whether the cache has a teacher with the submitted weights; they are copied, without what it predicts of test
    images."""
    wanted, found = submitted.get(run), cached.get(run)
    path = cached.files.student(run)
    if not (isinstance(wanted, Record) and isinstance(found, Record) and path.is_file()):
        return False
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != wanted.weights_sha256:
        return False
    own.files.student(run).parent.mkdir(parents=True, exist_ok=True)
    own.files.student(run).write_bytes(content)
    own.write(wanted)
    return True


def _write_data(file: Path, real: collect.Collected, blind: bool) -> None:
    """The images and labels of a dataset for a sandboxed process, each split's own and no others: with noise for the
    test images (`blind`), or with these and without their labels."""
    arrays: dict[str, np.ndarray] = {"names": np.array(msgspec.json.encode(
        {"classes": real.classes, "groups": real.group_names}).decode())}
    stream = np.random.default_rng()  # not to be guessed, so that nobody can tell noise by its seed
    for split, part in real.splits.items():
        if not isinstance(part.images, np.ndarray):
            raise TypeError("an image folder is no published dataset")
        images, labels, hidden = part.images[part.index], part.labels, split == "test"
        order = stream.permutation(len(labels)) if hidden else np.arange(len(labels))
        if hidden and blind:
            images = stream.integers(0, 256, images.shape, np.uint8)
        arrays |= {f"{split}|images": images, f"{split}|labels": labels[order]}
        arrays |= {f"{split}|group|{name}": codes[order] for name, codes in part.groups.items()}
        if part.tints is not None:
            arrays[f"{split}|tints"] = part.tints[order] if blind else part.tints
    np.savez(file, **arrays)

