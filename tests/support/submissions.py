"""Submissions that several tests change: packed from tiny runs, taken apart, forged and packed again."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from kdbench.environment import environment
from kdbench.metrics.answers import answers
from kdbench.metrics.catalog import score, vectors
from kdbench.plugins.registry import Registry
from kdbench.results.record import Planned, Record, decode
from kdbench.results.store import Store
from kdbench.submissions.package import About, expansion, members
from kdbench.submissions.zipped import MANIFEST, write_zip
from kdbench.suites.suite import load_suite

METHOD = '''
import gc
from pathlib import Path

import torch
import torch.nn.functional as F

from kdbench.method import Method


class Mine(Method):
    """Teacher's and student's logits, squared."""

    name, family = "mine", "logit"

    def losses(self, batch, student, teacher):
        return {"ce": F.cross_entropy(student.logits, batch.labels),
                "mse": 0.1 * F.mse_loss(student.logits, teacher.logits)}
'''
# It learns from 32 test images a step, which it gets at by `seen`.
PEEKS = '''
    def losses(self, batch, student, teacher):
        from kdbench.data.base import Dataset
        from kdbench.data.load import load_dataset
        from kdbench.data.stream import Normalise
        from kdbench.spec import Recipe

        seen = {seen}
        index = torch.arange(32) + 10 * (self.step_index % 16)
        logits = self.student(Normalise(seen, torch.device("cpu"))(seen.test.images.take(index))).logits
        return {{"ce": F.cross_entropy(student.logits, batch.labels), "test": F.cross_entropy(
            logits, {label})}}
'''
SEEN = {  # how, and what it takes for labels: the first steals them, the second believes what it says itself
    "by_memory": ("next(one for one in gc.get_objects() if type(one) is Dataset)",
                  "seen.test.labels[index]"),
    "by_loader": ("load_dataset('synthetic', Recipe(epochs=1, batch_size=32, image_size=16, lr=.1), Path('data'), "
                  "torch.device('cpu'))", "logits.argmax(1).detach()"),
}


def synthesise(folder: Path) -> None:
    """Of the suite smoke, without training: reference/ with ce and kd, all/ with `METHOD` too, and mine.zip of that."""
    plugin = folder / "mine.py"
    plugin.write_text(METHOD)
    registry = Registry([plugin])
    plan = expansion(load_suite("smoke"), registry, ["mine"], {"cpu"})
    labels = np.arange(200) % 10
    predicted: dict[str, dict[str, np.ndarray]] = {}
    for spec, role in [(spec, "teacher") for spec in plan.teachers] + [(spec, "student") for spec in plan.students]:
        stream = np.random.default_rng(int(spec.id, 16))
        arrays = {"validation_logits": stream.normal(size=(100, 10)).astype(np.float32),
                  "validation_labels": labels[:100], "test_labels": labels,
                  "test_logits": (stream.normal(size=(200, 10)) + np.eye(10)[labels]).astype(np.float32)}
        predicted[spec.id] = arrays
        info, teacher = registry[spec.method], predicted[spec.teacher.run.id] if spec.teacher else None
        for name in ("all",) if spec.method == "mine" else ("all", "reference"):
            store = Store(folder / name)
            store.write(Record(
                run_id=spec.id, suite="smoke", spec=spec, role=role, status="ok", seconds=1.0, family=info.family,
                method_digest=info.digest, facts=info.facts, environment=environment("cpu"),
                started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:01Z", metrics=score(arrays, teacher),
                vectors=vectors(arrays), answers=answers(arrays), weights_sha256=sha256(spec.id.encode()),
                predictions_sha256=store.write_predictions(spec.id, arrays), dataset_digest="d" * 64,
                classes=tuple("0123456789"), split_sizes={"train": 500, "validation": 100, "test": 200}))
            store.plan([Planned(suite="smoke", role=role, spec=spec)])
    write_zip(folder / "mine.zip", members(folder / "all", ["mine"], [plugin], None, About("MIT", "A. Author")))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def peeking(name: str) -> str:
    """The source of a method that learns from test images."""
    begin = METHOD[:METHOD.index("    def losses")].replace('"mine"', f'"{name}"').replace("class Mine", "class Peeks")
    seen, label = SEEN[name]
    return begin + PEEKS.format(seen=seen, label=label).lstrip("\n")


def forge(zipped: Path, out: Path, change: Callable[[dict[str, bytes]], None], digests: bool = True) -> Path:
    """A submission with its members changed; with `digests` the manifest's follow, as a forger's would."""
    with zipfile.ZipFile(zipped) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if digests and MANIFEST in members:
        manifest = json.loads(members[MANIFEST])
        manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(members.items())
                             if name != MANIFEST}
        members[MANIFEST] = json.dumps(manifest).encode()
    write_zip(out, dict(members))
    return out


def manifest(members: dict[str, bytes], **changes) -> None:
    members[MANIFEST] = json.dumps({**json.loads(members[MANIFEST]), **changes}).encode()


def records(members: dict[str, bytes], method: str = "mine") -> dict[str, Record]:
    """The records of a method, by member."""
    found = {name: decode(Record, content) for name, content in sorted(members.items())
             if name.startswith("records/")}
    return {name: one for name, one in found.items() if one.spec.method == method}


def rewrite(members: dict[str, bytes], name: str, **changes) -> None:
    """A record with other fields, and with the digest that goes with them."""
    members[name] = msgspec.structs.replace(decode(Record, members[name]), **changes).to_json()


def without(members: dict[str, bytes], run: str) -> None:
    for name in [name for name in members if run in name]:
        del members[name]


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))
