"""Submitting results, checking them without and with running them again, and adding them to a reference."""

import hashlib
import io
import json
import os
import shutil
import socket
import stat
import struct
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.programs import needs_avx2
from support.submissions import METHOD, SEEN, forge, manifest, peeking, records, rewrite, without

from kdbench import api
from kdbench.analysis.build import build
from kdbench.finished.fsck import Fsck
from kdbench.finished.merge import merge
from kdbench.folders import CacheFolder
from kdbench.metrics.answers import answers, read_answers
from kdbench.metrics.catalog import score, vectors
from kdbench.plugins.registry import Registry
from kdbench.profile.record import Profile
from kdbench.report.files import render
from kdbench.results.lock import read_lock
from kdbench.results.store import Store
from kdbench.results.submitted import read_submitted
from kdbench.submissions.check import check
from kdbench.submissions.package import About, members
from kdbench.submissions.replay import draw
from kdbench.submissions.sandbox import Sandbox
from kdbench.submissions.zipped import Refusal, unpack, write_zip
from kdbench.tune.choice import read_choices

METHODS = {"mine": METHOD, **{name: peeking(name) for name in SEEN}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """reference/ with ce and kd of the suite smoke; all/ with three submitted methods too; a zip of each of these."""
    folder = tmp_path_factory.mktemp("made")
    plugins = []
    for name, source in METHODS.items():
        plugins.append(folder / f"{name}.py")
        plugins[-1].write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        api.run("smoke", methods=["ce", "kd", *METHODS], plugins=plugins, out=folder / "all", workers=2)
    reference = Path(shutil.copytree(folder / "all", folder / "reference"))
    for record in Store(reference).read()[0]:
        if record.spec.method in METHODS:
            for path in reference.rglob(f"{record.run_id}.*"):
                path.unlink()
    for name in METHODS:
        write_zip(folder / f"{name}.zip", members(folder / "all", [name], plugins, None, About("MIT", "A. Author")))
    return folder


def refusals(zipped: Path, made: Path, tmp_path: Path) -> list[str]:
    done = check(zipped, made / "reference", tmp_path / "unpacked")
    return [str(one) for one in done.findings if one.refused]


# A good one.

def test_a_good_submission_is_good_and_its_witnesses_are_bit_equal(made, tmp_path):
    done = check(made / "mine.zip", made / "reference", tmp_path / "unpacked")
    assert [str(one) for one in done.findings] == [
        "note     witnesses: 4 runs of ce and kd are bit-equal to the reference's"]
    assert {one.spec.seed for one in done.own} == {0, 1}


def test_packing_twice_gives_the_same_bytes_without_weights_and_without_paths_of_the_submitter(made, tmp_path):
    again = members(made / "all", ["mine"], [made / "mine.py"], None, About("MIT", "A. Author"))
    write_zip(tmp_path / "again.zip", again)
    assert (tmp_path / "again.zip").read_bytes() == (made / "mine.zip").read_bytes()
    assert not any(name.startswith("students/") for name in again)
    assert str(made).encode() not in (made / "mine.zip").read_bytes()
    with_weights = members(made / "all", ["mine"], [made / "mine.py"], None, About("MIT", "A"), with_students=True)
    assert sum(name.startswith("students/") for name in with_weights) == 6  # two of mine, and of each witness


def test_a_failed_run_is_packed_without_its_traceback_and_the_paths_in_its_reason(made, tmp_path):
    folder = Path(shutil.copytree(made / "all", tmp_path / "failed"))
    (record, *_) = [one for one in Store(folder).read()[0] if one.spec.method == "mine"]
    Store(folder).write(msgspec.structs.replace(
        record, status="crashed", reason="crashed: no /home/me/secret/file.py", traceback="File /home/me/x.py",
        metrics={}, vectors={}))
    write_zip(tmp_path / "failed.zip", members(folder, ["mine"], [made / "mine.py"], None, About("MIT", "A")))
    done = check(tmp_path / "failed.zip", made / "reference", tmp_path / "unpacked")
    assert not done.refused
    assert any("1 runs of mine without a result" in str(one) and "no file.py" in str(one) for one in done.findings)
    assert b"/home/me" not in (tmp_path / "failed.zip").read_bytes()


# Ten bad ones, each with its message; the test-set peeking plugin is below.

def other_metric(content):
    name = next(iter(records(content)))
    rewrite(content, name, metrics={**records(content)[name].metrics, "test_accuracy": .99})


def other_answers(content):
    name = next(name for name, one in records(content).items() if one.answers is not None)
    found = read_answers(records(content)[name].answers)
    right = {"test_logits": np.eye(10, dtype=np.float32)[found.labels], "test_labels": found.labels}
    rewrite(content, name, answers=answers(right))


def other_record(content):
    name = next(iter(records(content)))
    content[name] = content[name].replace(b'"seconds": ', b'"seconds": 1')


def other_suite(content, old, new):
    suite = json.loads(content["submission.json"])["suite"]
    text = suite["text"].replace(old, new)
    manifest(content, suite={**suite, "text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})


def other_text(content):
    other_suite(content, "seeds = 2", "seeds = 1")


def one_seed(content):
    without(content, next(one.run_id for one in records(content).values() if one.spec.seed == 1))


def other_lock(content):
    lines = content["lock.txt"].decode().splitlines()
    content["lock.txt"] = "\n".join("torch==1.0" if line.startswith("torch==") else line for line in lines).encode()


def taken(content):
    source = content.pop("plugin/mine.py").replace(b'"mine"', b'"dkd"')
    content["plugin/mine.py"] = source
    methods = json.loads(content["submission.json"])["methods"]
    manifest(content, methods=[{**methods[0], "name": "dkd"}])


BAD = {
    "forged metric": (other_metric, [
        "forged metric: records/", "(mine, seed ", "test_accuracy 0.99, by its predictions 0."]),
    "changed record": (other_record, ["changed record: records/", "its content was changed after it was written"]),
    "other suite text": (other_text, ["other suite: the text of smoke is another one than that of kdbench here"]),
    "missing seeds": (one_seed, ["missing seeds: mine on tiny, synthetic: seed 1 of the suite's 2; run all seeds"]),
    "wrong lock": (other_lock, [
        "wrong lock: lock.txt has other versions than records were made with", "torch ", ", 1.0"]),
    "taken name": (taken, ["taken name: a method that comes with kdbench, or is installed here, is named 'dkd'"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_submission_is_refused_with_its_message(bad, made, tmp_path):
    change, told = BAD[bad]
    found = refusals(forge(made / "mine.zip", tmp_path / "bad.zip", change), made, tmp_path)
    assert any(all(part in line for part in told) for line in found), found


@pytest.mark.parametrize("bad, lines", [("changed record", ["changed record", "missing seeds"]),
                                        ("other suite text", ["other suite"])])
def test_what_follows_from_a_fault_is_not_told_as_further_faults(bad, lines, made, tmp_path):
    found = refusals(forge(made / "mine.zip", tmp_path / "bad.zip", BAD[bad][0]), made, tmp_path)
    assert [line.removeprefix("refused").split(":")[0].strip() for line in found] == lines


def zip_of(path: Path, name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644, times: int = 1) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in ["submission.json", "lock.txt", *[name] * times]:
            member = zipfile.ZipInfo(one)
            member.external_attr = (mode if one == name else stat.S_IFREG | 0o644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content if one == name else b"{}")
    return path


def announced(path: Path, size: int) -> Path:
    """A zip whose table of contents gives its last member that size."""
    zip_of(path, "records/0123456789abcdef.json", b"{}" * 50)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\1\2")
    content[place + 24:place + 28] = struct.pack("<L", size)
    path.write_bytes(content)
    return path


HOSTILE = {
    "a path upwards": (lambda p: zip_of(p, "records/../../evil.json"), "path: 'records/../../evil.json' leads out of"),
    "an absolute path": (lambda p: zip_of(p, "/etc/passwd"), "path: '/etc/passwd' leads out of"),
    "a symbolic link": (lambda p: zip_of(p, "plugin/a.py", b"/etc/passwd", stat.S_IFLNK | 0o777),
                        "symlink: 'plugin/a.py' is a symbolic link"),
    "a pipe": (lambda p: zip_of(p, "plugin/a.py", b"", stat.S_IFIFO | 0o644), "not a file: 'plugin/a.py'"),
    "a member twice": (lambda p: zip_of(p, "plugin/a.py", times=2), "twice: 'plugin/a.py' is in it twice"),
    "a foreign name": (lambda p: zip_of(p, "records/evil.pkl"), "unknown member: 'records/evil.pkl'"),
    "4 GB, announced": (lambda p: announced(p, (1 << 32) - 2), "too large: 'records/0123456789abcdef.json' announces"),
    "more than announced": (lambda p: announced(p, 3), "not a zip: damaged: Bad CRC-32"),
    "a bomb": (lambda p: zip_of(p, "predictions/0123456789abcdef.npz", bytes(100 << 20)), "times as large as its "
               "compressed bytes, allowed is 100 times"),
    "something behind": (lambda p: p.write_bytes(zip_of(p, "plugin/a.py").read_bytes() + b"x"), "it is no plain zip"),
    "something before": (lambda p: p.write_bytes(b"x" + zip_of(p, "plugin/a.py").read_bytes()), "it is no plain zip"),
    "nothing": (lambda p: p.write_bytes(b""), "it is no plain zip"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_zip_is_refused_before_anything_is_unpacked(kind, made, tmp_path):
    write, told = HOSTILE[kind]
    write(tmp_path / "hostile.zip")
    (found,) = refusals(tmp_path / "hostile.zip", made, tmp_path)
    assert told in found
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "hostile.zip"]
    assert all(path.is_relative_to(tmp_path / "unpacked") for path in left)


def test_a_member_of_ten_gigabytes_is_refused_by_what_it_announces(made, tmp_path):
    """Such a size takes the form of zips beyond 4 GiB, in an extra field."""
    path = announced(tmp_path / "large.zip", 0xFFFFFFFF)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\1\2")
    name = struct.unpack("<H", content[place + 28:place + 30])[0]
    extra = struct.pack("<HHQ", 1, 8, 10 << 30)
    content[place + 30:place + 32] = struct.pack("<H", len(extra))
    content[place + 46 + name:place + 46 + name] = extra
    end = content.rindex(b"PK\5\6")
    content[end + 12:end + 16] = struct.pack("<L", struct.unpack("<L", content[end + 12:end + 16])[0] + len(extra))
    path.write_bytes(content)
    (found,) = refusals(path, made, tmp_path)
    assert "too large: 'records/0123456789abcdef.json' announces 11 GB, allowed are 4.2 MB" in found
    with pytest.raises(Refusal):
        unpack(path, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


# Further forgeries.

def foreign_seed(content):
    record = next(iter(records(content).values()))
    spec = record.spec.model_copy(update={"seed": 7})
    content[f"records/{spec.id}.json"] = msgspec.structs.replace(record, spec=spec, run_id=spec.id).to_json()
    content[f"predictions/{spec.id}.npz"] = content[f"predictions/{record.run_id}.npz"]


def without_witness(content):
    without(content, next(iter(records(content, "kd").values())).run_id)


def other_witness(content):
    name = next(iter(records(content, "kd")))
    rewrite(content, name, weights_sha256="0" * 64)


def far_witness(content):
    """Made on another machine, and far from what the reference has."""
    for name, record in records(content, "kd").items():
        stored = np.load(io.BytesIO(content[f"predictions/{record.run_id}.npz"]))
        right = {key: stored[key] for key in stored.files}
        right["test_logits"] = np.eye(10, dtype=np.float32)[right["test_labels"]]
        folder = Store(Path(os.environ["KDBENCH_CACHE"]) / "forged")
        sha256 = folder.write_predictions(record.run_id, right)
        content[f"predictions/{record.run_id}.npz"] = folder.files.predictions(record.run_id).read_bytes()
        teacher = np.load(io.BytesIO(content[f"predictions/{record.spec.teacher.run.id}.npz"]))
        rewrite(content, name, weights_sha256="0" * 64, predictions_sha256=sha256, vectors=vectors(right),
                answers=answers(right), metrics=score(right, {key: teacher[key] for key in teacher.files}),
                environment={**record.environment, "cpu": "another"})


def own_disk(content):
    name = next(iter(records(content)))
    rewrite(content, name, notes=["checkpoint /home/me/cache/x was set aside"])


def other_source(content):
    content["plugin/mine.py"] += b"\n# changed\n"


FURTHER = {
    "a seed too many": (foreign_seed, "extra seeds: "), "no witness": (without_witness, "missing witness: "),
    "a witness of other weights": (other_witness, "witness: run "),
    "a witness beyond noise": (far_witness, "made elsewhere: kd on tiny, synthetic has other bits"),
    "a path": (own_disk, "private: "), "another plugin": (other_source, "changed file: plugin/mine.py"),
    "answers": (other_answers, "answers, by its predictions others"),
    "a licence": (lambda content: manifest(content, licence="Proprietary"), "licence: 'Proprietary' is no SPDX"),
    "a pickle": (lambda content: content.update({"plugin/other.py": b""}), "other file: plugin/other.py"),
    "an image folder": (lambda content: other_suite(content, '"synthetic"', '"imagefolder:/etc"'),
                        "other suite: the suite's runs cannot be told from its text: dataset imagefolder:/etc"),
}


@pytest.mark.parametrize("kind", FURTHER)
def test_a_forgery_is_refused_though_all_digests_are_made_to_fit(kind, made, tmp_path):
    change, told = FURTHER[kind]
    found = refusals(forge(made / "mine.zip", tmp_path / "bad.zip", change), made, tmp_path)
    assert any(told in line for line in found), found


def test_a_member_that_is_not_the_one_of_the_manifest_is_named(made, tmp_path):
    def change(content):
        content["lock.txt"] += b"evil==1\n"

    found = refusals(forge(made / "mine.zip", tmp_path / "bad.zip", change, digests=False), made, tmp_path)
    assert "refused  changed file: lock.txt: its SHA-256 is not the one in submission.json" in found[0]


def test_a_text_under_another_name_must_give_the_runs_of_the_reference(made, tmp_path):
    """There is no built-in suite of that name to compare the text with."""
    def change(content):
        other_suite(content, "seeds = 2", "seeds = [0]")
        suite = json.loads(content["submission.json"])["suite"]
        manifest(content, suite={**suite, "name": "mysuite"})
        for name in list(records(content)):
            rewrite(content, name, suite="mysuite")
        for method in ("ce", "kd"):
            for name in list(records(content, method)):
                rewrite(content, name, suite="mysuite")
        one_seed(content)

    found = refusals(forge(made / "mine.zip", tmp_path / "bad.zip", change), made, tmp_path)
    assert any("other suite: the reference has kd with seed 1 on tiny, synthetic, which this suite's text does not ask "
               "for" in line for line in found), found


def test_a_name_that_the_reference_has_with_another_source_is_taken(made, tmp_path):
    reference = Path(shutil.copytree(made / "all", tmp_path / "reference"))
    for record in Store(reference).read()[0]:
        if record.spec.method == "mine":
            Store(reference).write(msgspec.structs.replace(record, method_digest="0" * 64))
    done = check(made / "mine.zip", reference, tmp_path / "unpacked")
    assert any("taken name: the reference has other runs of a method 'mine'" in str(one) for one in done.findings)


def test_checking_runs_nothing_of_a_plugin(made, tmp_path):
    def change(content):
        content["plugin/mine.py"] = f"open({str(tmp_path / 'ran')!r}, 'w')\n".encode() + content["plugin/mine.py"]

    refusals(forge(made / "mine.zip", tmp_path / "bad.zip", change), made, tmp_path)
    assert not (tmp_path / "ran").exists()


# Running again.

def replayed(kdbench, made, name, *more):
    return kdbench("results", "check", made / f"{name}.zip", "--against", made / "reference", "--replay", 1, *more)


@pytest.mark.slow
def test_a_replay_gives_an_honest_method_the_same_weights_and_predictions(made, kdbench):
    code, told, _ = replayed(kdbench, made, "mine")
    assert code == 0 and "the same weights and test predictions, bit by bit (in a process of its own" in told


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "by_memory" else name
                                  for name in SEEN])
def test_a_replay_finds_a_method_that_looks_at_test_images(name, made, kdbench):
    assert kdbench("results", "check", made / f"{name}.zip", "--against", made / "reference")[0] == 0
    code, told, _ = replayed(kdbench, made, name)
    assert code == 1 and "refused  replay: run " in told
    assert "came out with other weights" in told and "such as the test images, which were withheld here" in told


@pytest.mark.slow
@needs_avx2
def test_runs_on_cpu_portable_are_submitted_and_replayed_on_it(tmp_path, kdbench):
    (tmp_path / "mine.py").write_text(METHOD)
    api.run("smoke", methods=["ce", "kd", "mine"], plugins=[tmp_path / "mine.py"], device="cpu-portable", workers=2,
            out=tmp_path / "all")
    code, told, error = kdbench("submit", tmp_path / "all", "--methods", "mine", "--plugin", tmp_path / "mine.py",
                                "--author", "A", "--license", "MIT", "--out", tmp_path / "mine.zip")
    assert code == 0 and "2 runs and 5 of witnesses and teachers" in told, error
    for record in Store(tmp_path / "all").read()[0]:
        if record.spec.method == "mine":
            Store(tmp_path / "all").files.record(record.run_id).unlink()
    code, told, _ = kdbench("results", "check", tmp_path / "mine.zip", "--against", tmp_path / "all", "--replay", 1)
    assert code == 0 and "the same weights and test predictions, bit by bit" in told


def test_the_runs_to_replay_are_drawn_by_seed_and_file(made, tmp_path):
    own = check(made / "mine.zip", made / "reference", tmp_path / "unpacked").own
    drawn = {seed: draw(own, 1, seed, "a")[0].run_id for seed in range(20)}
    assert drawn == {seed: draw(own, 1, seed, "a")[0].run_id for seed in range(20)} and len(set(drawn.values())) == 2
    assert len(draw(own, 99, 0, "a")) == 2


PROBE = """
import json, os, pathlib, socket, sys
if sys.argv[1] == "sleep":
    import time
    time.sleep(60)
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2)
    network = True
except OSError:
    network = False
pathlib.Path(sys.argv[2], "told.json").write_text(json.dumps([network, dict(os.environ)]))
"""


def test_a_sandboxed_process_has_no_network_and_no_tokens_and_ends_in_time(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "place").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    sandbox = Sandbox()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        end = sandbox.run("probe", [port, str(tmp_path / "place")], tmp_path / "place", "cpu", 60)
    assert end.code == 0, end.said
    network, environment = json.loads((tmp_path / "place" / "told.json").read_text())
    assert network is (sandbox.tool is None) and "secret" not in environment.values()
    assert environment["HOME"] == str(tmp_path / "place" / "home")
    assert sandbox.run("probe", ["sleep"], tmp_path / "place", "cpu", 1).code is None


# Adding.

def test_a_submission_is_added_with_its_mark_which_tables_show_and_merging_keeps(made, tmp_path, kdbench):
    reference = Path(shutil.copytree(made / "reference", tmp_path / "reference"))
    code, told, error = kdbench("results", "add", made / "mine.zip", "--to", reference)
    assert code == 0 and "mine added as checked; 7 records" in told, error
    (one,) = read_submitted(Store(reference))[0].submissions
    assert (one.mark, one.licence, one.author, one.methods) == ("checked", "MIT", "A. Author", ["mine"])
    assert (reference / "plugins" / "mine.py").read_text() == METHOD
    assert list(Fsck(reference, CacheFolder(tmp_path / "none"), Profile).check()) == []

    board = build(reference, Registry())
    assert {row.method: row.submission for row in board.cells[0].rows} == {"ce": None, "kd": None, "mine": "checked"}
    assert "submission" in render(board, "md") and "checked: the metrics follow from" in render(board, "md")
    told = kdbench("leaderboard", reference)[1].replace("\n  ", " ")
    assert "Submitted by others: mine (checked; by A. Author" in told
    assert "submission: " not in render(build(made / "reference", Registry()), "md")

    merge([reference], tmp_path / "merged", Profile, read_choices)
    assert read_submitted(Store(tmp_path / "merged"))[0] == read_submitted(Store(reference))[0]
    assert (tmp_path / "merged" / "plugins" / "mine.py").read_text() == METHOD
    (reference / "plugins" / "mine.py").write_text("")
    assert merge([reference], tmp_path / "again", Profile, read_choices).refused


@pytest.mark.slow
def test_a_replayed_submission_is_marked_so_and_a_refused_one_changes_nothing(made, tmp_path, kdbench):
    reference = Path(shutil.copytree(made / "reference", tmp_path / "reference"))
    bad = forge(made / "mine.zip", tmp_path / "bad.zip", other_metric)
    before = sorted(reference.rglob("*"))
    for more in ((), ("--unchecked",)):
        assert kdbench("results", "add", bad, "--to", reference, *more)[0] == 1
    assert sorted(reference.rglob("*")) == before
    few = forge(made / "mine.zip", tmp_path / "few.zip", one_seed)
    assert kdbench("results", "add", few, "--to", reference)[0] == 1
    assert "added as self-reported" in kdbench("results", "add", few, "--to", reference, "--unchecked")[1]
    assert "added as replayed" in kdbench("results", "add", made / "mine.zip", "--to", reference, "--replay", 1)[1]
    assert {row.submission for row in build(reference, Registry()).cells[0].rows} == {None, "replayed"}


# The command that packs.

def test_submit_refuses_what_check_would_and_writes_nothing(made, tmp_path, kdbench):
    folder = Path(shutil.copytree(made / "all", tmp_path / "few"))
    (last,) = [one for one in Store(folder).read()[0] if one.spec.method == "mine" and one.spec.seed == 1]
    Store(folder).files.record(last.run_id).unlink()
    given = ("--plugin", made / "mine.py", "--out", tmp_path / "mine.zip", "--author", "A", "--methods", "mine")
    code, _, error = kdbench("submit", folder, *given, "--license", "MIT")
    assert code == 1 and "missing seeds: mine on tiny, synthetic: seed 1" in error and "nothing was written" in error
    code, _, error = kdbench("submit", made / "all", *given, "--license", "WTF")
    assert code == 1 and "licence: 'WTF' is no SPDX identifier" in error
    assert not (tmp_path / "mine.zip").exists()
    code, told, _ = kdbench("submit", made / "all", *given, "--license", "MIT")
    assert code == 0 and "2 runs and 5 of witnesses and teachers" in told and (tmp_path / "mine.zip").exists()
    code, _, error = kdbench("submit", made / "all", *given[:-1], "kd", "--license", "MIT")
    assert code == 2 and "kd comes with kdbench: only a method of your own can be submitted" in error
    code, _, error = kdbench("submit", made / "all", *given[:-1], "mien", "--license", "MIT")
    assert code == 2 and "did you mean 'mine'" in error


def test_the_lock_is_a_file_of_requirements_with_the_versions_of_the_records(made):
    with zipfile.ZipFile(made / "mine.zip") as archive:
        versions = read_lock(archive.read("lock.txt").decode())
        record = next(msgspec.json.decode(archive.read(name)) for name in archive.namelist()
                      if name.startswith("records/"))
    assert {name: versions[name] for name in ("torch", "timm", "numpy", "kdbench")} == {
        name: record["environment"]["versions"][name] for name in ("torch", "timm", "numpy", "kdbench")}
    with pytest.raises(ValueError, match="line 1: expected NAME==VERSION, got '-r /etc/passwd'"):
        read_lock("-r /etc/passwd")


