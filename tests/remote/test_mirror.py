"""What goes up from a mirror and down into it, with a store in memory."""

from threading import Event, Thread

import pytest
from support.folders import finish
from support.object_store import Objects
from support.records import record, spec

from kdbench.disk import set_aside
from kdbench.folders import MirrorFolder
from kdbench.remote.mirror import Mirror, not_uploaded
from kdbench.results.store import Store


@pytest.fixture
def objects():
    return Objects()


@pytest.fixture
def mirror(objects, tmp_path):
    return Mirror(MirrorFolder(tmp_path / "mirror"), objects)


def test_a_record_that_is_replaced_while_others_go_up_waits_for_its_files(mirror, objects):
    """A run that failed ends well on the next try, between the listing of files and their upload."""
    store = Store(mirror.folder.results)
    finish(store, spec("kd"))
    store.write(record(spec("ce"), status="crashed"))
    with mirror.written():
        objects.turn = once(objects, lambda: finish(store, spec("ce")))
        mirror.push()
        name = spec("ce").id
        assert f"records/{name}.json" not in objects.objects
        mirror.push()
        assert {f"records/{name}.json", f"students/{name}.safetensors", f"predictions/{name}.npz"} < {*objects.objects}


@pytest.fixture
def upload(mirror, objects):
    """An upload that waits in the middle of a file until it may go on: an event that lets it, and how often the file
    went up."""
    store, begun, go_on, wrote, write = Store(mirror.folder.results), Event(), Event(), [], objects.write
    finish(store, spec())

    def wait(name, content):
        if name.startswith("students/"):
            begun.set()
            assert go_on.wait(20)
            wrote.append(name)
        return write(name, content)

    objects.write = wait
    with mirror.written():
        thread = Thread(target=mirror.push)
        thread.start()
        assert begun.wait(20)
        yield go_on, wrote
        go_on.set()
        thread.join()


def test_who_reads_on_the_machine_that_uploads_does_not_wait_for_that(mirror, objects, upload):
    go_on, wrote = upload
    objects.objects["plan/x.json"] = b"of another machine"
    reader = Thread(target=Mirror(mirror.folder, objects).pull, args=(False,))
    reader.start()
    reader.join(10)
    assert not reader.is_alive() and not wrote
    assert (mirror.folder.results / "plan" / "x.json").exists()
    go_on.set()


def test_what_was_brought_down_during_an_upload_does_not_go_up_after_it(mirror, objects, upload):
    go_on, _ = upload
    objects.objects["plan/x.json"] = b"of another machine"
    Mirror(mirror.folder, objects).pull(networks=False)
    go_on.set()
    mirror.push()
    assert "plan/x.json" not in objects.dates and not_uploaded(mirror.folder) == 0


def test_of_two_uploads_in_one_command_the_second_one_waits(mirror, upload):
    go_on, wrote = upload
    second = Thread(target=mirror.push)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go_on.set()
    second.join()
    assert len(wrote) == 1


def once(objects, action):
    def turn():
        objects.turn = lambda: None
        action()
    return turn


def test_a_file_that_is_set_aside_goes_at_the_store_and_one_that_is_lost_stays(mirror, objects):
    store = Store(mirror.folder.results)
    for seed in (0, 1):
        finish(store, spec("ce", seed))
    with mirror.written():
        mirror.push()
        aside, lost = (store.files.record(spec("ce", seed).id) for seed in (0, 1))
        set_aside(aside)
        lost.unlink()
        mirror.push()
    names = {name for name in objects.objects if name.startswith("records/")}
    assert names == {f"records/{aside.name}.corrupt-1", f"records/{lost.name}"}


def test_a_look_from_the_same_machine_brings_nothing_back_that_a_command_just_set_aside(mirror, objects):
    store = Store(mirror.folder.results)
    finish(store, spec())
    with mirror.written():
        mirror.push()
        set_aside(store.files.record(spec().id))
        objects.write(f"records/{spec('kd').id}.json", b"new")
        Mirror(mirror.folder, objects).pull(networks=True)
        assert not store.files.record(spec().id).exists() and store.files.record(spec("kd").id).exists()
        mirror.push()
    assert f"records/{spec().id}.json" not in objects.objects
