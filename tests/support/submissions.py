"""Submissions that several tests change: packed from tiny real runs, taken apart, forged and packed again."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from kdbench.results.record import Record, decode
from kdbench.submissions.zipped import MANIFEST, write_zip

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
