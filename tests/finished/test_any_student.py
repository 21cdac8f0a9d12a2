"""A saved network of any content is loaded, or refused in one line."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from support.mutations import MUTATED, mutations

from kdbench.disk import file_sha256
from kdbench.errors import UserError
from kdbench.finished import reload as module
from kdbench.networks import build, load_teacher, serialise
from kdbench.results.store import Store
from kdbench.spec import Architecture, FileTeacher

SMALL = Architecture(model="resnet_cifar", kwargs={"blocks": 1, "stem": 4, "channels": [4, 4, 4], "stride": 2})


@pytest.fixture(scope="module")
def network():
    return build(SMALL, 3, (3, 8, 8))


@pytest.mark.parametrize("reader", ["student", "teacher"])
def test_any_bytes_are_a_network_or_one_line(tmp_path, monkeypatch, network, reader):
    store = Store(tmp_path)
    path = store.files.student("run")
    path.parent.mkdir(parents=True)
    method = SimpleNamespace(deployed=lambda: network)
    monkeypatch.setattr(module, "prepare", lambda *args, **also: (method, None))
    monkeypatch.setattr(module.registry, "load", lambda info: None)
    monkeypatch.setattr(module, "_tutor", lambda *args: None)
    labels = SimpleNamespace(device=torch.device("cpu"))
    dataset = SimpleNamespace(train=SimpleNamespace(labels=labels))
    info = SimpleNamespace(digest="a")
    spec = SimpleNamespace(method="ce", hyperparameters={}, student=SMALL, training=None, seed=0, updates=1,
                           transfer=None)

    def load() -> None:
        digest = file_sha256(path)  # a stranger's record has the digest of the stranger's file
        if reader == "teacher":
            load_teacher(FileTeacher(architecture=SMALL, path=str(path), sha256=digest), 3, (3, 8, 8))
        else:
            record = SimpleNamespace(run_id="run", status="ok", weights_sha256=digest, spec=spec, method_digest="a")
            module.reload(record, store, info, dataset)

    content = serialise(network.model.state_dict())
    path.write_bytes(content)
    load()

    @settings(MUTATED, max_examples=150 if reader == "student" else 40)
    @given(mutations(content, focus=int.from_bytes(content[:8], "little") + 8))
    def check(damaged):
        path.write_bytes(damaged)
        try:
            load()
        except UserError as error:
            assert str(error).startswith(f"{path}: ")

    check()
