"""Where a site is written, what it may replace, and what is refused."""

import os
import time
from pathlib import Path

import pytest
from support.folders import tree
from support.records import REGISTRY, planned, record, spec
from support.sites import suite_folder

from kdbench.results.store import Store
from kdbench.site import build
from kdbench.site.build import publish


@pytest.fixture
def place(tmp_path):
    """Folders of two suites, in small."""
    for name in ("one", "two"):
        suite_folder(tmp_path / name, name, methods=("ce", "kd"), seeds=2)
    return tmp_path


def test_the_command_says_where_the_site_is_and_what_is_in_it(kdbench, place):
    code, out, err = kdbench("publish", "one", "two", "--out", "site")
    assert code == 0, err
    assert out.startswith("site/index.html: one, two; 2 methods, ") and "licence of the results: mit" in out


def test_a_site_takes_the_place_of_an_earlier_one_whole(place):
    publish([str(place / "one"), str(place / "two")], place / "site", REGISTRY)
    publish([str(place / "one")], place / "site", REGISTRY)
    publish([str(place / "one")], place / "other", REGISTRY)
    assert tree(place / "site") == tree(place / "other")
    assert {path.name for path in place.iterdir()} == {"one", "two", "site", "other"}


def test_an_empty_folder_may_be_filled(place):
    (place / "site").mkdir()
    publish([str(place / "one")], place / "site", REGISTRY)
    assert (place / "site" / "index.html").is_file()


@pytest.mark.parametrize("name", [".git", "CNAME", "notes.txt", "three", "data/notes.txt", "one/own.html"])
def test_what_is_no_part_of_a_site_is_never_lost(kdbench, place, name):
    publish([str(place / "one")], place / "site", REGISTRY)
    (place / "site" / name).mkdir()
    before = tree(place / "site")
    code, _, err = kdbench("publish", "one", "--out", "site")
    assert code == 2 and f"it holds {name}, which is no part of a site" in err
    assert tree(place / "site") == before and (place / "site" / name).is_dir()


def test_a_folder_of_other_things_is_not_replaced(kdbench, place):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("all of it")
    code, _, err = kdbench("publish", "one", "--out", "mine")
    assert code == 2 and err.count("\n") == 1 and "thesis.tex" in err
    assert (place / "mine" / "thesis.tex").read_text() == "all of it"


def test_a_file_or_a_link_in_the_place_of_the_site_is_refused(kdbench, place):
    (place / "file").write_text("x")
    (place / "link").symlink_to(place / "two")
    for name in ("file", "link"):
        code, _, err = kdbench("publish", "one", "--out", name)
        assert code == 2 and ("no folder" in err or "apart from" in err)
    assert (place / "file").read_text() == "x" and (place / "link").is_symlink()


@pytest.mark.parametrize(("out", "how"), [("one", "is"), ("one/site", "holds"), (".", "lies in"), ("one/../one", "is")])
def test_a_site_stands_apart_from_the_results(kdbench, place, out, how):
    before = tree(place)
    code, _, err = kdbench("publish", "one", "--out", out)
    assert code == 2 and f"and one {how} it" in err and err.count("\n") == 1
    assert tree(place) == before


def test_what_goes_wrong_leaves_the_earlier_site_as_it_was(place, monkeypatch):
    publish([str(place / "one")], place / "site", REGISTRY)
    before = tree(place / "site")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "index_script", fail)
    with pytest.raises(KeyboardInterrupt):
        publish([str(place / "two")], place / "site", REGISTRY)
    assert tree(place / "site") == before
    assert {path.name for path in place.iterdir()} == {"one", "two", "site"}


def test_a_site_that_cannot_be_put_in_place_leaves_the_earlier_one(place, monkeypatch):
    publish([str(place / "one")], place / "site", REGISTRY)
    before, rename = tree(place / "site"), Path.rename

    def refuse(self, target):
        if self.name == "new":
            raise OSError("disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="disk gone"):
        publish([str(place / "two")], place / "site", REGISTRY)
    assert tree(place / "site") == before


def test_what_a_killed_command_left_is_removed_after_an_hour(place):
    for name, age in ((".site.abc.tmp", 7200), (".site.new.tmp", 10), (".other.abc.tmp", 7200)):
        (place / name).mkdir()
        os.utime(place / name, (time.time() - age,) * 2)
    publish([str(place / "one")], place / "site", REGISTRY)
    assert {path.name for path in place.iterdir() if path.name[0] == "."} == {".site.new.tmp", ".other.abc.tmp"}


# Folders that are refused.

def test_a_folder_without_records_is_named(kdbench, place):
    (place / "empty").mkdir()
    for name in ("empty", "nowhere"):
        code, _, err = kdbench("publish", "one", name, "--out", "site")
        assert code == 2 and err.startswith(f"kdbench: {name}: no records here") and not (place / "site").exists()


def test_a_folder_without_a_finished_run_is_named(kdbench, place):
    Store(place / "failed").write(record(spec("kd"), status="crashed", reason="memory"))
    Store(place / "asked").plan([planned(spec("kd"))])
    for name in ("failed", "asked"):
        code, _, err = kdbench("publish", "one", name, "--out", "site")
        assert code == 2 and err == f"kdbench: {name}: no run of it has finished: there is nothing to publish\n"


def test_two_folders_of_one_suite_need_a_name(kdbench, place):
    suite_folder(place / "again", "one", methods=("ce",))
    code, _, err = kdbench("publish", "one", "again", "--out", "site")
    assert code == 2 and "one and again are both of the suite one" in err and "one-2=again" in err
    code, _, err = kdbench("publish", "one", "second=again", "--out", "site")
    assert code == 0, err
    assert (place / "site" / "second" / "index.html").is_file()


def test_names_that_a_disk_may_take_for_one_are_refused(kdbench, place):
    code, _, err = kdbench("publish", "one", "ONE=two", "--out", "site")
    assert code == 2 and "both of the suite" in err


@pytest.mark.parametrize("suite", ["data", "methods", "Release", "a/b", "../x", ".hidden", "a b", ""])
def test_a_suite_whose_name_cannot_be_that_of_a_folder_is_refused(kdbench, tmp_path, suite):
    Store(tmp_path / "odd").write(record(spec("ce"), .9, suite=suite))
    code, _, err = kdbench("publish", "odd", "--out", "site")
    assert code == 2 and "NAME=odd" in err and not (tmp_path / "site").exists()
    code, _, err = kdbench("publish", "good=odd", "--out", "site")
    assert code == 0, err


def test_a_folder_of_several_suites_needs_a_name(kdbench, place):
    Store(place / "one").write(record(spec("ce", 9), .9, suite="three"))
    code, _, err = kdbench("publish", "one", "--out", "site")
    assert code == 2 and "2 suites (one, three)" in err and "NAME=one" in err


def test_a_folder_with_an_equals_sign_in_its_name_is_a_folder(kdbench, place):
    (place / "two").rename(place / "a=b")
    code, _, err = kdbench("publish", "a=b", "--out", "site")
    assert code == 0, err
    assert (place / "site" / "two" / "index.html").is_file()
