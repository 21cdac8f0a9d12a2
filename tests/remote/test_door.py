"""What goes on beside a command that writes, with a store in memory: its lease, and the upload of what it finishes."""

import errno
import os
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


@pytest.fixture
def full_disk(monkeypatch):
    """Whether the index cannot be written; a list, of one truth."""
    full, write = [False], mirror.atomic_write

    def writes(path, content):
        if full[0] and path.name == "index.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content)

    monkeypatch.setattr(mirror, "atomic_write", writes)
    return full


def test_uploads_go_on_when_a_disk_that_was_full_has_room_again(folder, objects, full_disk, monkeypatch, capsys):
    monkeypatch.setattr(door, "UPLOAD_EVERY", 0.01)
    with door._writing(folder, False):
        full_disk[0] = True
        add(folder, "records/a.json")
        until(lambda: "No space left on device" in capsys.readouterr().err)
        full_disk[0] = False
        add(folder, "records/b.json")
        until(lambda: results(objects) == {"records/a.json", "records/b.json"})


def test_a_full_disk_in_the_last_upload_is_one_line_with_what_to_do_and_hides_no_other_error(folder, full_disk, capsys):
    told = "index.json: No space left on device; free some space .*; 1 files are on this machine only"
    with pytest.raises(door.NotUploaded, match=told), door._writing(folder, False):
        full_disk[0] = True
        add(folder, "records/a.json")
    full_disk[0] = False
    with pytest.raises(ZeroDivisionError), door._writing(folder, False):
        full_disk[0] = True
        add(folder, "records/b.json")
        raise ZeroDivisionError
    assert "No space left on device" in capsys.readouterr().err
