import os

import pytest
from support.object_store import ENVIRONMENT, ObjectStore

from kdbench.remote import bucket

CONNECTED = {}  # by all that a connection depends on, as to make one takes a fifth of a second


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
    connect = bucket._connect

    def connected(url):
        place = (*url.split("/")[:3], *sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        fs, root = CONNECTED.get(place) or connect(url)
        CONNECTED[place] = fs, root
        return fs, url.partition("://")[2]

    monkeypatch.setattr(bucket, "_connect", connected)
    yield server
    server.trouble = lambda number, method, name: ""
