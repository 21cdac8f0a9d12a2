"""What goes on beside a command that writes, with a store in memory: its lease, and the upload of what it finishes."""

import threading
import time

import msgspec
import pytest
from support.object_store import Objects

from kdbench.folders import MirrorFolder
from kdbench.remote import door, mirror
from kdbench.remote import lease as leases
from kdbench.remote.lease import LostLease, Note
from kdbench.remote.mirror import Mirror

OTHER = msgspec.json.encode(Note(9, 100.0, True, "elsewhere", 77, "b"))


@pytest.fixture
def objects(monkeypatch):
    """A store whose clock stands still; leases are renewed every 20 ms."""
    monkeypatch.setattr(leases, "lease_seconds", lambda: 0.1)
    monkeypatch.setattr(mirror, "THREADS", 1)
    return Objects()


@pytest.fixture
def folder(objects, tmp_path):
    """The mirror of the store."""
    return Mirror(MirrorFolder(tmp_path / "mirror"), objects)


def add(folder, *names):
    for name in names:
        path = folder.folder.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def while_uploading(objects, name, action):
    """Do something while the object is written."""
    write = objects.write

    def slow(other, content):
        if other == name:
            action()
        return write(other, content)

    objects.write = slow


def lease_of(objects):
    return next(name for name in objects.objects if name.startswith(leases.FOLDER))


def results(objects):
    return {name for name in objects.objects if not name.startswith(leases.FOLDER)}


def test_a_lease_is_renewed_for_as_long_as_the_last_upload_takes(folder, objects):
    renewed = []

    def wait():
        objects.later(1)
        until(lambda: objects.dates[lease_of(objects)] == objects.now)
        renewed.append(True)

    while_uploading(objects, "students/a.safetensors", wait)
    with door._writing(folder, False):
        add(folder, "students/a.safetensors")
    assert renewed and objects.objects.keys() == {"students/a.safetensors"}


@pytest.mark.parametrize("where", ["main thread", "another thread"])
@pytest.mark.parametrize("last", [False, True], ids=["more to upload", "nothing more to upload"])
def test_a_lease_that_is_lost_in_the_last_upload_ends_it_with_the_file_that_goes_up(folder, objects, last, where):
    def lose():
        own = lease_of(objects)
        objects.write(f"{leases.FOLDER}/other.json", OTHER)
        until(lambda: own not in objects.objects)
        time.sleep(0.05)

    while_uploading(objects, "students/a.safetensors", lose)
    raised = []

    def command():
        with pytest.raises(LostLease, match="process 77 on elsewhere took the folder over"), \
                door._writing(folder, False):
            add(folder, "students/a.safetensors", *[] if last else ["students/b.safetensors", "records/a.json"])
        raised.append(True)

    if where == "main thread":
        command()
    else:
        thread = threading.Thread(target=command)
        thread.start()
        thread.join()
    assert raised and results(objects) <= {"students/a.safetensors"}
