import pytest
from support.object_store import ENVIRONMENT, ObjectStore

from kdbench.remote import bucket


@pytest.fixture(scope="session")
def server():
    """One store for all tests."""
    store = ObjectStore()
    yield store
    store.stop()


@pytest.fixture
def store(server, monkeypatch, tmp_path):
    """An empty store that this process reaches, and a cache of the test's own."""
    server.reset()
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "own-cache"))
    monkeypatch.setattr(bucket, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(bucket, "LAST_DELAY", 0.1)
    yield server
    server.trouble = lambda number, method, name: ""
