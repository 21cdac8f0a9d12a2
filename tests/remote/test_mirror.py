"""What goes up from a mirror and down into it, with a store in memory."""

import pytest
from support.folders import finish
from support.object_store import Objects
from support.records import record, spec

from kdbench.disk import set_aside
from kdbench.folders import MirrorFolder
from kdbench.remote.mirror import Mirror
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
