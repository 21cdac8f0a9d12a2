"""Submissions that were made to harm the one who checks or takes them. Their runs are made up, not trained."""

import json
import os
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import msgspec
import pytest
from support.submissions import METHOD, forge, manifest, records, rewrite, sha256, synthesise

from kdbench.environment import environment
from kdbench.errors import UserError
from kdbench.folders import CacheFolder
from kdbench.plugins.registry import Registry
from kdbench.profile.record import Profile
from kdbench.results.store import Store
from kdbench.results.submitted import Submission, Submitted, read_submitted, write_submitted
from kdbench.submissions import replay as replays
from kdbench.submissions.check import check
from kdbench.submissions.package import About, members
from kdbench.submissions.sandbox import Sandbox
from kdbench.submissions.zipped import MOST_MEMBERS, Refusal, unpack, write_zip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    synthesise(folder)
    return folder


@pytest.fixture
def refusals(made, tmp_path):
    """What speaks against the submission, changed."""
    def find(change, reference=None):
        shutil.rmtree(tmp_path / "unpacked", ignore_errors=True)
        done = check(forge(made / "mine.zip", tmp_path / "bad.zip", change), reference or made / "reference",
                     tmp_path / "unpacked")
        return [str(one) for one in done.findings if one.refused]

    return find


def test_a_submission_of_runs_that_are_made_up_well_is_good(refusals):
    assert refusals(lambda content: None) == []


def each(method="mine", **changes):
    """The change of all records of a method."""
    def change(content):
        for name in records(content, method):
            rewrite(content, name, **changes)

    return change


# Records that no reader could read.

def test_a_witness_without_a_metric_is_refused(refusals):
    found = refusals(each("kd", weights_sha256="0" * 64, metrics={}))
    assert len(found) == 2 and all("(kd, seed " in line and "test_accuracy is not there" in line for line in found)


@pytest.mark.parametrize("moment", ["2026-99-99T00:00:00Z", "2026-02-30T00:00:00Z"])
def test_a_time_that_never_was_is_refused(moment, refusals):
    """Merging reads it."""
    assert any("finished: " in line for line in refusals(each(finished=moment)))


HERE = environment("cpu")
ODD = {  # environments that some reader of records could not read, or that evade the comparison of versions
    "nothing": {}, "no versions": {name: value for name, value in HERE.items() if name != "versions"},
    "versions as text": HERE | {"versions": "torch"}, "a number as version": HERE | {"versions": {"torch": 2}},
    "a package that ends in _bytes": HERE | {"versions": {"a_bytes": "1"}},
    "text as bytes": HERE | {"memory_bytes": "x"},
    "a commit of 5": HERE | {"git_commit": 5}, "more": HERE | {"more_bytes": "x"}, "lines": HERE | {"cpu": "a\nb"},
}


@pytest.mark.parametrize("method", ["mine", "kd"])
@pytest.mark.parametrize("kind", ODD)
def test_an_environment_that_kdbench_does_not_record_is_refused(kind, method, refusals):
    found = refusals(each(method, weights_sha256="0" * 64, environment=ODD[kind]))
    assert len([line for line in found if "changed record: " in line and ": environment: " in line]) == 2


# What records say of a run besides its result, some of which tables show for the reference's runs too.

def other_pair(content):
    for name, record in records(content).items():
        rewrite(content, name, spec=record.spec.model_copy(update={"pair": "aaa"}))


def other_idea(content):
    for name, record in records(content).items():
        rewrite(content, name, facts=msgspec.structs.replace(record.facts, idea="The best."))


def other_name(content):
    """Of the suite: the text is that of smoke."""
    suite = json.loads(content["submission.json"])["suite"]
    manifest(content, suite={**suite, "name": "other"})
    for method in ("mine", "kd", "ce"):
        each(method, suite="other")(content)


DESCRIBED = {
    "pair": (other_pair, "other suite: ", "another name of the pair"),
    "family": (each(family="baseline"), "other source: ", "it says else of mine than the method's source does"),
    "idea": (other_idea, "other source: ", "it says else of mine than the method's source does"),
    "a teacher's family": (each("ce", family="logit"), "other source: ", "it says else of ce than the method's"),
    "classes": (each(classes=tuple("abcdefghijk")), "other images: ", "classes are not the reference's"),
    "sizes": (each(split_sizes={"test": 1}), "other images: ", "split_sizes are not the reference's"),
    "images": (each(dataset_digest="e" * 64), "other images: ", "dataset_digest are not the reference's"),
    "suite": (other_name, "other suite: ", "the reference's suite is called 'smoke', not 'other'"),
    "a teacher's suite": (each("ce", suite="other"), "other run: ", "of the suite other, expected"),
}


@pytest.mark.parametrize("what", DESCRIBED)
def test_a_record_that_describes_its_run_otherwise_is_refused(what, refusals):
    change, kind, told = DESCRIBED[what]
    assert any(kind in line and told in line for line in refusals(change)), refusals(change)


def profile(record, **changes):
    """The member of a profile of a record's run."""
    found = Profile(**{"run_id": record.run_id, "suite": record.suite, "spec": record.spec, "status": "ok",
                       "seconds": 1.0, "family": record.family, "method_digest": record.method_digest,
                       "facts": record.facts, "environment": HERE, "started": record.started,
                       "finished": record.finished, "subject": "method", **changes})
    return {f"profile/{found.run_id}.json": found.to_json()}


def test_a_profile_of_a_submitted_run_is_good_and_packed_while_one_of_the_pair_is_not(made, refusals):
    """The reference has a profile of the pair, and of two the latest is kept."""
    (run, *_) = [one for one in Store(made / "all").read()[0] if one.spec.method == "mine"]
    pair = {"subject": "pair", "run_id": run.spec.cell, "finished": "2099-01-01T00:00:00Z"}
    folder = Path(shutil.copytree(made / "all", made / "profiled"))
    (folder / "profile").mkdir()
    for name, content in (profile(run, suite="other") | profile(run, **pair)).items():
        (folder / name).write_bytes(content)
    packed = members(folder, ["mine"], [made / "mine.py"], None, About("MIT", "A. Author"))
    assert {name: content for name, content in packed.items() if "profile" in name} == profile(run)
    assert refusals(lambda content: content.update(profile(run))) == []
    for bad in (pair, {"suite": "other"}, {"environment": {}}, {"traceback": "x"},
                {"spec": run.spec.model_copy(update={"pair": "aaa"})}):
        assert any("no profile of a submitted run" in line
                   for line in refusals(lambda content, bad=bad: content.update(profile(run, **bad)))), bad
    for bad in ({"family": "baseline"}, {"method_digest": "0" * 64}):
        assert any("other source: " in line
                   for line in refusals(lambda content, bad=bad: content.update(profile(run, **bad)))), bad


# The package that brings a method.

def packaged(content, text, requirement="My.Pkg==1", locked="my-pkg==1"):
    manifest(content, requirement=requirement)
    content["lock.txt"] += f"{locked}\n".encode()
    if text is not None:
        content["requirement.txt"] = text


def test_a_package_is_found_in_the_lock_whatever_it_is_written_with(refusals):
    assert refusals(lambda content: packaged(content, b"My.Pkg==1\n")) == []
    assert any("wrong lock: lock.txt does not have My.Pkg==1" in line
               for line in refusals(lambda content: packaged(content, b"My.Pkg==1\n", locked="my-pkg==2")))


@pytest.mark.parametrize(("text", "requirement"), [
    (b"-r https://evil.example/x.txt\n", "My.Pkg==1"), (b"My.Pkg==1\nevil\n", "My.Pkg==1"), (None, "My.Pkg==1"),
    (b"evil\n", None)])
def test_a_file_of_another_package_than_the_one_that_is_told_is_refused(text, requirement, refusals):
    """The one who replays the runs is told to install it."""
    found = refusals(lambda content: packaged(content, text, requirement))
    assert any("wrong requirement: requirement.txt is not the line of submission.json" in line for line in found)


def test_predictions_of_the_reference_are_read_once_for_a_cell(made, refusals, monkeypatch):
    """Those of ImageNet take seconds."""
    folders, read = [], Store.read_predictions

    def count(store, *given):
        folders.append(store.folder)
        return read(store, *given)

    monkeypatch.setattr(Store, "read_predictions", count)
    assert refusals(lambda content: None) == [] and folders.count(made / "reference") == 1


# Whose methods and runs they are.

def test_a_method_of_kdbench_cannot_be_submitted_though_its_source_is_the_same(refusals):
    """Its rows would be the submitter's."""
    info = Registry()["dkd"]

    def change(content):
        content["plugin/dkd.py"] = info.file.read_bytes()
        manifest(content, methods=[{"name": "dkd", "family": info.family, "digest": info.digest, "plugin": "dkd.py"}])

    assert any("taken name: a method that comes with kdbench, or is installed here, is named 'dkd'" in line
               for line in refusals(change))


def test_runs_that_the_reference_has_are_taken_again_only_if_they_were_submitted(made, tmp_path, refusals):
    """Of two equal runs that with the most metrics would be kept, and the row marked as the submitter's."""
    reference = Path(shutil.copytree(made / "all", tmp_path / "reference"))
    assert any("taken name: the reference has runs of 'mine' that nobody submitted" in line
               for line in refusals(lambda content: None, reference))
    runs = [one.run_id for one in Store(reference).read()[0] if one.spec.method == "mine"]
    write_submitted(Store(reference), Submitted(submissions=[Submission(
        sha256="0" * 64, methods=["mine"], mark="checked", when="2026-01-01T00:00:00Z", author="A", licence="MIT",
        runs=runs)]))
    assert refusals(lambda content: None, reference) == []


# What a sandboxed process leaves.

LINKING = """
import os, pathlib, sys
from kdbench.submissions.replayed import Task, msgspec
task = msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=Task)
weights = pathlib.Path(task.out, "students", "{run}.safetensors")
{links}
os._exit(0)
"""
LINKS = {
    "file": "weights.parent.mkdir(parents=True); weights.symlink_to({secret!r})",
    "folder": "weights.parent.parent.mkdir(); weights.parent.symlink_to(pathlib.Path({secret!r}).parent)",
}


@pytest.mark.parametrize("what", LINKS)
def test_weights_are_not_read_through_a_link_that_a_replayed_process_left(what, made, tmp_path, monkeypatch):
    """It may lead to what the process itself could not read, such as the submitted weights, or a token."""
    done = check(made / "mine.zip", made / "reference", tmp_path / "unpacked")
    (run, *_) = done.own
    secret = tmp_path / f"{run.run_id}.safetensors"
    secret.write_text("token")
    (tmp_path / "linking.py").write_text(LINKING.format(run=run.run_id, links=LINKS[what].format(secret=str(secret))))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(replays, "CHILD", "linking")
    (found,) = replays.replay(done, [run], tmp_path / "place", CacheFolder(Path(os.environ["KDBENCH_CACHE"])), 60)
    assert found.finding.refused and "exit code 0): it left no weights" in found.finding.why


ANNOUNCING = """
import os, pathlib, sys
from kdbench.submissions.replayed import Task, msgspec
task = msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=Task)
out = pathlib.Path(task.out)
if task.what == "train":
    (out / "students").mkdir(parents=True)
    (out / "students" / "{run}.safetensors").write_bytes(b"x")
else:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 10), }".ljust(117) + b"\\n"
    (out / "logits.npy").write_bytes(b"\\x93NUMPY\\1\\0\\x76\\0" + header)
os._exit(0)
"""


def test_logits_of_a_replayed_process_that_announce_more_than_memory_holds_are_none(made, tmp_path, monkeypatch):
    done = check(made / "mine.zip", made / "reference", tmp_path / "unpacked")
    run = msgspec.structs.replace(done.own[0], weights_sha256=sha256(b"x"))
    (tmp_path / "announcing.py").write_text(ANNOUNCING.replace("{run}", run.run_id))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(replays, "CHILD", "announcing")
    (found,) = replays.replay(done, [run], tmp_path / "place", CacheFolder(Path(os.environ["KDBENCH_CACHE"])), 60)
    assert found.finding.refused and "exit code 0): it left no logits" in found.finding.why


# It writes down what it is asked to hide and to show, and does nothing of it.
BWRAP = """#!/bin/sh
printf '%s\\n' "$@" > {log}
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def test_a_replayed_process_finds_neither_the_images_of_the_cache_nor_the_submission(made, tmp_path, monkeypatch):
    """Wherever they lie, also below a folder of Python's, which it has to find."""
    (tmp_path / "bwrap").write_text(BWRAP.format(log=tmp_path / "log"))
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ending.py").write_text("")
    monkeypatch.setattr(replays, "CHILD", "ending")
    cache, unpacked, place = tmp_path / "cache", tmp_path / "unpacked", tmp_path / "place"
    cache.mkdir()
    zipped = Path(shutil.copy(made / "mine.zip", tmp_path))
    done = check(zipped, made / "reference", unpacked)
    list(replays.replay(done, done.own[:1], place, CacheFolder(cache), 60))
    told = (tmp_path / "log").read_text().split("\n")
    shown = [told.index(str(path)) for path in (tmp_path, place / done.own[0].run_id / "train")]
    hidden = [told.index(str(path)) for path in (cache, unpacked, zipped)]
    assert [told[at - 1] for at in hidden] == ["--tmpfs", "--tmpfs", "/dev/null"]
    assert shown[0] < min(hidden) and max(hidden) < shown[1]


def test_of_what_a_replayed_process_says_the_end_alone_is_held_in_memory(tmp_path, monkeypatch):
    (tmp_path / "loud.py").write_text("import sys\nfor _ in range(200): sys.stderr.write('x' * (1 << 20))\n"
                                      "sys.stderr.write('the end')\n")
    monkeypatch.syspath_prepend(tmp_path)
    tracemalloc.start()
    end = Sandbox().run("loud", [], tmp_path, "cpu", 60)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (end.code, len(end.said), end.said[-9:]) == (0, 2000, "xxthe end") and most < 20 << 20


# What the submitter says.

@pytest.mark.parametrize("address", ["javascript:alert(1)", "ftp://example.org", "https:example.org"])
def test_an_address_that_is_none_of_the_web_is_refused(address, refusals):
    def change(content):
        manifest(content, url=address)

    (found,) = refusals(change)
    assert f"url: expected an address that begins with https:// or http://, got {address!r}" in found


# Zips.

@pytest.mark.parametrize("offset", [1 << 62, 1 << 40, 1000])
def test_a_member_at_a_place_that_the_file_does_not_have_is_refused(offset, tmp_path):
    path = tmp_path / "far.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("submission.json", "lock.txt"):
            archive.writestr(name, b"{}")
    content = bytearray(path.read_bytes())
    place, end = content.rindex(b"PK\1\2"), content.rindex(b"PK\5\6")
    name = struct.unpack("<H", content[place + 28:place + 30])[0]
    extra = struct.pack("<HHQ", 1, 8, offset)
    content[place + 30:place + 32] = struct.pack("<H", len(extra))
    content[place + 42:place + 46] = struct.pack("<L", 0xFFFFFFFF)
    content[end + 12:end + 16] = struct.pack("<L", struct.unpack("<L", content[end + 12:end + 16])[0] + len(extra))
    content[place + 46 + name:place + 46 + name] = extra
    path.write_bytes(content)
    with pytest.raises(Refusal, match=r"'lock\.txt' should stand at a place that the file does not have"):
        unpack(path, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_a_zip_that_announces_fewer_members_than_it_has_is_refused_for_all_of_them(tmp_path):
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("submission.json", "lock.txt", *(f"records/{number:016x}.json" for number in range(MOST_MEMBERS))):
            archive.writestr(name, b"{}")
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    content[end + 8:end + 12] = struct.pack("<HH", 3, 3)
    path.write_bytes(content)
    with pytest.raises(Refusal, match=f"{MOST_MEMBERS + 2} members, allowed are {MOST_MEMBERS}"):
        unpack(path, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_packing_more_than_is_taken_is_a_mistake_in_one_line(tmp_path):
    """Nothing of it is read: the file of 2 GiB, from which on zips have another form, is a hole."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(UserError, match=r"1 files of 2\.1 GB, allowed are 20000 of 2\.0 GB: submit fewer"):
        write_zip(tmp_path / "a.zip", {"students/0123456789abcdef.safetensors": tmp_path / "large"})
    with pytest.raises(UserError, match="20001 files of 0"):
        write_zip(tmp_path / "a.zip", {f"records/{number:016x}.json": b"" for number in range(MOST_MEMBERS + 1)})
    assert not (tmp_path / "a.zip").exists()


# The commands.

def another_seed(content):
    (record, *_) = records(content).values()
    spec = record.spec.model_copy(update={"seed": 7})
    content[f"records/{spec.id}.json"] = msgspec.structs.replace(record, spec=spec, run_id=spec.id).to_json()
    content[f"predictions/{spec.id}.npz"] = content[f"predictions/{record.run_id}.npz"]


def test_seeds_too_many_are_taken_as_self_reported_and_a_replay_that_is_left_out_is_told(made, tmp_path, kdbench):
    reference = Path(shutil.copytree(made / "reference", tmp_path / "reference"))
    bad = forge(made / "mine.zip", tmp_path / "bad.zip", another_seed)
    assert kdbench("results", "add", bad, "--to", reference)[0] == 1
    code, told, error = kdbench("results", "add", bad, "--to", reference, "--unchecked", "--replay", 1)
    assert code == 0 and "mine added as self-reported; 8 records" in told, error
    assert "note     replay: no run was run again, since the check refuses something" in told
    code, told, _ = kdbench("results", "check", bad, "--against", made / "reference", "--replay", 1, "--json")
    assert code == 1 and json.loads(told)["findings"][-1]["kind"] == "replay"


def test_a_submission_that_is_removed_leaves_the_reference_as_it_was_and_can_be_added_again(made, tmp_path, kdbench):
    reference = Path(shutil.copytree(made / "reference", tmp_path / "reference"))
    (run, *_) = [one for one in Store(made / "all").read()[0] if one.spec.method == "mine"]
    zipped = forge(made / "mine.zip", tmp_path / "mine.zip", lambda content: content.update(profile(run)))

    def there():
        return {path.relative_to(reference): path.read_bytes() for path in reference.rglob("*")
                if path.is_file() and path.name not in (".lock", "merged.json")}

    before = there()
    assert kdbench("results", "add", zipped, "--to", reference)[0] == 0
    added = there()
    assert len(added) == len(before) + 2 * 3 + 3
    code, _, error = kdbench("results", "remove", reference, "mien")
    assert code == 2 and "unknown submitted method" in error and "did you mean 'mine'" in error and there() == added
    code, told, error = kdbench("results", "remove", reference, "mine")
    assert code == 0 and "mine (checked; by A. Author" in told and "removed; 2 runs" in told, error
    assert there() == before
    assert kdbench("results", "add", zipped, "--to", reference)[0] == 0
    another = Submission(sha256="0" * 64, methods=["other"], mark="checked", when="2026-01-01T00:00:00Z", author="A",
                         licence="MIT", runs=[run.run_id], plugins={"mine.py": sha256(METHOD.encode())})
    note = read_submitted(Store(reference))[0]
    write_submitted(Store(reference), Submitted(submissions=[another, *note.submissions]))
    assert kdbench("results", "remove", reference, "mine")[0] == 0
    assert read_submitted(Store(reference))[0].submissions == [another]
    assert Store(reference).get(run.run_id) == run and (reference / "plugins" / "mine.py").read_text() == METHOD
    assert len(there()) == len(added) - 3
