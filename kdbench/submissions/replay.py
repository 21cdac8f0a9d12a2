"""Runs submitted runs again, while they cannot see the test images, and compares the weights.

What a method learns must not depend on the test split. So the run is trained with random images and shuffled labels in
its place: an honest run gives the recorded weights again, and one that looked at the test split gives others. The
process gets nothing that reveals the real test images, and where bwrap works it finds neither the dataset's files in
the cache nor the submission. Then another process predicts the real test images, also with shuffled labels, with these
weights, and the logits are compared with the submitted ones.
"""

import errno
import hashlib
import io
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from kdbench.data import collect
from kdbench.disk import atomic_write, read_file
from kdbench.environment import environment
from kdbench.finished.verify import DEVIATIONS, FEWEST_SEEDS, environment_changes
from kdbench.folders import CacheFolder
from kdbench.metrics.predictions import accuracy
from kdbench.plugins.registry import Registry
from kdbench.results.record import Record
from kdbench.results.store import Store
from kdbench.spec import teacher_runs
from kdbench.submissions.check import Checked, Finding
from kdbench.submissions.sandbox import Ended, Sandbox
from kdbench.submissions.task import Task

CHILD = "kdbench.submissions.replayed"
AGAIN = "run it again from an empty cache"
HONEST = "a method may read what `losses` and `step` are given, and nothing else"
_NOT_INSTALLED = "the package that brings it is not installed here", "install requirement.txt, then replay"
PEEKS = ("its weights depend on something that a run may not depend on, such as the test images, which were withheld "
         "here, the time, or the machine")


@dataclass(frozen=True)
class Replayed:
    """The result of a replayed run. `equal`: it gave the recorded weights and test predictions, bit by bit."""

    run: str
    equal: bool
    finding: Finding


def draw(own: list[Record], count: int, seed: int, sha256: str) -> list[Record]:
    """A random choice of at most `count` finished runs, the same for everybody who draws with that seed from the file
    with that SHA-256."""
    finished = sorted((one for one in own if one.status == "ok"), key=lambda one: one.run_id)
    return random.Random(f"{seed} {sha256}").sample(finished, min(count, len(finished)))


def replay(done: Checked, runs: list[Record], folder: Path, cache: CacheFolder, seconds: float) -> Iterator[Replayed]:
    """Run each of `runs` again in a sandbox and compare it; yields the results. This executes the submitter's code.
    `folder` is an empty folder to work in, `cache` has the datasets and teachers, and a process that takes more than
    `seconds` is killed. A method whose package is not installed here is refused."""
    # Built-in methods lie in FAMILY/NAME.py of their package, and those of plugins in PACKAGE/NAME.py.
    sandbox = Sandbox({info.file.absolute().parents[1] for info in Registry().values()},
                      hidden=(cache.root, done.folder, done.file))
    for record in runs:
        run = _Run(done, record, folder / record.run_id, cache, sandbox, seconds)
        yield run.ended(True, *_NOT_INSTALLED) if not run.method.class_name else run.compare()


class _Run:
    """One run that is replayed. Each of its two processes has a folder of its own, from which only the output that it
    is to leave is read."""

    def __init__(self, done: Checked, record: Record, place: Path, cache: CacheFolder, sandbox: Sandbox,
                 seconds: float):
        self.done, self.record, self.place, self.cache = done, record, place, cache
        self.sandbox, self.seconds = sandbox, seconds
        self.method = done.infos[record.spec.method]

    def ended(self, refused: bool, why: str, remedy: str = "", equal: bool = False) -> Replayed:
        spec = self.record.spec
        name = f"run {self.record.run_id} ({spec.method}, seed {spec.seed}, {spec.pair}, {spec.dataset})"
        return Replayed(self.record.run_id, equal, Finding(refused, "replay", f"{name}: {why}", remedy))

    def compare(self) -> Replayed:
        """Train without the test images, predict them, and compare the weights and logits with the submitted ones."""
        record, spec = self.record, self.record.spec
        real = collect.collect(collect.parse(spec.dataset), self.cache.data, spec.recipe.train_size)
        weights = self._train(real)
        if isinstance(weights, Ended):
            return self.ended(True, f"{_why(weights, self.seconds)} (in {self.sandbox.told(spec.device)})", AGAIN)
        found = hashlib.sha256(weights).hexdigest()
        here = msgspec.structs.replace(record, environment=environment(spec.device))
        changes = environment_changes(record, here)
        if found != record.weights_sha256 and not changes:
            return self.ended(True, f"it came out with other weights (SHA-256 {found[:12]}, submitted "
                              f"{str(record.weights_sha256)[:12]}), though machine and versions are the same: {PEEKS}",
                              HONEST)
        logits = self._predict(real, weights, msgspec.structs.replace(record, weights_sha256=found))
        if isinstance(logits, Ended):
            return self.ended(True, f"its network cannot predict: {_why(logits, self.seconds)}", AGAIN)
        saved = self.done.store.read_predictions(record.run_id, record.predictions_sha256)["test_logits"]
        if found == record.weights_sha256 and np.array_equal(logits, saved):
            return self.ended(False, "the same weights and test predictions, bit by bit (in "
                              f"{self.sandbox.told(spec.device)})", equal=True)
        if changes:
            return _by_noise(self.done, record, logits, real.splits["test"].labels, changes, self.ended)
        return self.ended(True, "its weights are the submitted ones, and the test predictions that they give are not",
                          "submit the predictions that the run saved")

    def _train(self, real: collect.Collected) -> bytes | Ended:
        """Train the run while it cannot see the test images, and return its weights; how its process ended if it left
        none."""
        place, lent = self.place / "train", CacheFolder(self.place / "train" / "cache")
        lent.data.mkdir(parents=True)
        missing = [run.id for run in teacher_runs(self.record.spec)
                   if not _lent(run.id, self.done.store, Store(self.cache.teachers), Store(lent.teachers))]
        for run in missing:
            shutil.copyfile(self.done.store.files.record(run), place / f"{run}.json")
        _write_data(place / "data.npz", real, blind=True)
        task = self._task("train", place, self.record, [str(place / f"{run}.json") for run in missing])
        end = self._run(task, place)
        try:
            return _left(Store(task.out).files.student(self.record.run_id), place) if end.code == 0 else end
        except OSError:
            return Ended(end.code, "it left no weights")

    def _predict(self, real: collect.Collected, weights: bytes, record: Record) -> np.ndarray | Ended:
        """The logits [N, K] that these weights give for the N test images; how the process ended if it left none."""
        place = self.place / "predict"
        place.mkdir()
        task = self._task("predict", place, record, [])
        atomic_write(Store(task.out).files.student(record.run_id), weights)
        _write_data(place / "data.npz", real, blind=False)
        end = self._run(task, place)
        try:
            found = np.load(io.BytesIO(_left(Path(task.out) / "logits.npy", place)), allow_pickle=False)
            if end.code == 0 and isinstance(found, np.ndarray) and found.shape == (
                    len(real.splits["test"]), len(real.classes)):
                return found
        except (OSError, ValueError, EOFError, MemoryError):  # the file may announce any shape
            pass
        return Ended(end.code, end.said or "it left no logits")

    def _task(self, what: Literal["train", "predict"], place: Path, record: Record, teachers: list[str]) -> Task:
        plugin = None
        if self.method.module is None:
            plugin = str(place / self.method.file.name)
            shutil.copyfile(self.method.file, plugin)
        (place / "record.json").write_bytes(record.to_json())
        return Task(what=what, record=str(place / "record.json"), teachers=teachers, data=str(place / "data.npz"),
                    plugin=plugin, cache=str(place / "cache"), out=str(place / "out"))

    def _run(self, task: Task, place: Path) -> Ended:
        (place / "task.json").write_bytes(msgspec.json.encode(task))
        return self.sandbox.run(CHILD, [str(place / "task.json")], place, self.record.spec.device, self.seconds)


def _by_noise(done: Checked, record: Record, logits: np.ndarray, labels: np.ndarray, changes: list[str],
              ended: Callable[..., Replayed]) -> Replayed:
    """The result where bits cannot be compared: whether the replayed test accuracy is within what two seeds of the row
    differ by. It takes FEWEST_SEEDS submitted seeds to tell."""
    spec = record.spec
    seeds = [one.metrics["test_accuracy"] for one in done.own if one.status == "ok" and (
        one.spec.cell, one.spec.method, one.spec.hyperparameters) == (spec.cell, spec.method, spec.hyperparameters)]
    was, now = record.metrics["test_accuracy"], accuracy(logits, labels)
    noise = DEVIATIONS * math.sqrt(2) * float(np.std(seeds, ddof=1)) if len(seeds) >= FEWEST_SEEDS else math.nan
    told = (f"bits cannot be compared, since machine or versions are others ({', '.join(changes)}); trained without "
            f"the test images it has {now:.2%} test accuracy, submitted {was:.2%}")
    if math.isnan(noise):
        return ended(False, f"{told}; {FEWEST_SEEDS} seeds are needed to tell noise, it has {len(seeds)}")
    if abs(now - was) <= noise:
        return ended(False, f"{told}: within what two of its seeds differ by, ± {noise:.2%}")
    return ended(True, f"{told}: beyond what two of its seeds differ by, ± {noise:.2%}; {PEEKS}",
                 HONEST)


def _why(end: Ended, seconds: float) -> str:
    if end.code is None:
        return f"it took more than {seconds:.0f} seconds"
    last = (end.said.strip().splitlines() or ["it said nothing"])[-1]
    return f"it did not finish (exit code {end.code}): {last[:300]}"


def _left(file: Path, place: Path) -> bytes:
    """The content of a file that a sandboxed process left below `place`. Raises OSError if there is none, or if a link
    is on the way to it: the link might lead out of the sandbox to what only this process may read."""
    if file.resolve() != place.resolve() / file.relative_to(place):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file))
    return read_file(file)


def _lent(run: str, submitted: Store, cached: Store, own: Store) -> bool:
    """Copy a teacher from the user's cache to the run's own cache if its weights are the submitted ones, but not its
    predictions of test images; return whether it was copied."""
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
    """Write the images and labels of a dataset's splits, and none of its other images, for a sandboxed process. The
    test split has shuffled labels and groups and, if `blind`, noise instead of its images. Raises TypeError for an
    image folder."""
    arrays: dict[str, np.ndarray] = {"names": np.array(msgspec.json.encode(
        {"classes": real.classes, "groups": real.group_names, "words": real.words}).decode())}
    stream = np.random.default_rng()  # without a seed, so that nobody can compute the noise again
    for split, part in real.splits.items():
        if not isinstance(part.images, np.ndarray):
            raise TypeError("an image folder is no published dataset")
        images, labels, hidden = part.images[part.index], part.labels, split == "test"
        order = stream.permutation(len(labels)) if hidden else np.arange(len(labels))
        if hidden and blind:
            images = stream.integers(0, int(images.max()), images.shape, images.dtype, endpoint=True)  # or tokens
        arrays |= {f"{split}|images": images, f"{split}|labels": labels[order]}
        arrays |= {f"{split}|group|{name}": codes[order] for name, codes in part.groups.items()}
        if part.tints is not None:
            arrays[f"{split}|tints"] = part.tints[order] if blind else part.tints
    np.savez(file, allow_pickle=False, **arrays)

