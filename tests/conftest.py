import os

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of the tests' own, shared by them all: teachers of the smoke suite are trained once."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KDBENCH_CACHE", str(folder))
    return folder
