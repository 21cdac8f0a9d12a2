"""Commands on folders of results on an object store: the same as on a local folder, whatever the store does."""

import random
import re
import shutil
import sys
from itertools import product

import msgspec
import pytest
from support.folders import finish, tree
from support.records import planned, spec, teacher_spec

from kdbench.folders import CacheFolder
from kdbench.remote import bucket, door
from kdbench.remote.place import mirror_of
from kdbench.results.record import Record
from kdbench.results.repeated import differing
from kdbench.results.store import Store

URL = "s3://bucket/run"
SAME = "copy-of-the-run"  # a local folder, whose name is as long as the URL
RUN = ("run", "smoke", "--methods", "ce,kd", "--seeds", "1", "--set", "recipe.epochs=1", "--out")


def mirror(url=URL):
    return mirror_of(url, CacheFolder.of_user())


def results(folder):
    """A folder with two methods of two seeds and their teacher, none of which was ever trained."""
    store = Store(folder)
    finish(store, teacher_spec(), role="teacher")
    for method, seed in product(("ce", "kd"), (0, 1)):
        finish(store, spec(method, seed), accuracy=.5 + seed / 10 + (method == "kd") / 5, weights=method.encode())
    store.plan([planned(spec("kd", 2))])
    return store


@pytest.fixture
def local(tmp_path):
    return results(tmp_path / SAME)


@pytest.fixture
def uploaded(kdbench, store, local):
    """The store with these results in it, and the machine that uploaded them forgotten."""
    for name, content in tree(local.folder).items():
        store.put(f"run/{name}", content)
    return store


def is_ours(name):
    return not name.startswith(".lease/")


def objects(store, folder="run"):
    return {name: sha256 for name, sha256 in store.objects(folder).items() if is_ours(name)}


def of_local(folder):
    import hashlib

    return {name: hashlib.sha256(content).hexdigest() for name, content in tree(folder).items()
            if not name.rpartition("/")[2].startswith(".")}


def uploads(store):
    """What went up, in the order in which it was there: name and SHA-256."""
    return [(one.name.removeprefix("run/"), one.sha256) for one in store.log
            if one.method == "PUT" and one.status == 200 and is_ours(one.name.removeprefix("run/"))]


def need_files_before_records(store):
    """Fails if a record ever was at the store while one of the files that it names was not."""
    there = {}
    records = 0
    for name, sha256 in uploads(store):
        there[name] = sha256
        if name.startswith("records/"):
            found = msgspec.json.decode(store.get(f"run/{name}"))
            records += 1
            if found["role"] == "student":
                assert there[f"students/{found['run_id']}.safetensors"] == found["weights_sha256"]
            assert there[f"predictions/{found['run_id']}.npz"] == found["predictions_sha256"]
    return records


# Running.

@pytest.mark.slow
def test_a_run_gives_at_a_store_that_fails_all_the_time_what_it_gives_in_a_folder(kdbench, store, tmp_path, cache,
                                                                                   monkeypatch):
    monkeypatch.setenv("KDBENCH_CACHE", str(cache))  # with the teachers of other tests
    store.trouble = lambda number, method, name: random.Random(number).choice(
        ("500", "lost", "cut", "slow", "", "", "", "", ""))
    code, out, err = kdbench(*RUN, URL)
    assert (code, err) == (0, "") and f"results in {URL}" in out and str(mirror().root) not in out
    assert kdbench(*RUN, "local")[0] == 0
    there, here = Store(mirror().results).read()[0], Store(tmp_path / "local").read()[0]
    assert len(there) == len(here) == 3
    assert [differing(one, other) for one, other in zip(there, here, strict=True)] == [[], [], []]
    assert objects(store) == of_local(mirror().results)
    assert need_files_before_records(store) == 3
    assert store.objects().keys() == objects(store).keys()  # the lease is gone

    shutil.rmtree(mirror().root)
    store.trouble = lambda number, method, name: ""
    code, out, _ = kdbench(*RUN, URL)
    assert code == 0 and "2 runs were finished before, 0 now" in out


def test_a_record_goes_up_while_the_command_still_runs(kdbench, store, local, monkeypatch):
    monkeypatch.setattr(door, "UPLOAD_EVERY", 0.02)
    seen = []

    def evaluate(folder, cache):
        from kdbench.finished.evaluate import Evaluation

        shutil.copytree(local.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("records"))
        shutil.copytree(local.folder / "records", folder / "records", dirs_exist_ok=True)  # last, as a run writes them
        for _ in range(500):
            if objects(store) == of_local(local.folder):
                break
            door.time.sleep(0.02)
        seen.append(objects(store))
        return Evaluation(0, 0, ())

    monkeypatch.setattr("kdbench.finished.evaluate.evaluate", evaluate)
    assert kdbench("evaluate", URL)[0] == 0
    assert seen == [of_local(local.folder)] and need_files_before_records(store) == 5


# Reading.

READING = [
    ["leaderboard", "X"], ["leaderboard", "X", "--format", "json"], ["leaderboard", "X", "X-other"], ["advise", "X"],
    ["report", "X", "--check"], ["status", "X"], ["list", "runs", "X"], ["show", "ce:0", "X"], ["card", "X", "ce:0"],
    ["cite", "X"], ["fsck", "X"], ["compare", "X", "X-other"], ["evaluate", "X"], ["leaderboard", "X-none"],
    ["show", "at:0", "X"], ["verify", "X", "nothing"], ["export", "X", "ce:0", "--out", "there"], ["status", "X-none"],
    ["run", "smoke", "--tuned", "X"], ["run", "smoke", "--estimates-from", "X-none"],
    ["publish", "X", "--out", "site"], ["publish", "mine=X", "--out", "site"], ["publish", "a=X-none", "--out", "site"],
    ["release", "X", "2026.12", "--note", "one"],
    ["results", "check", "none.zip", "--against", "X"], ["results", "add", "none.zip", "--to", "X"],
    ["submit", "X", "--methods", "ce", "--out", "ce.zip", "--license", "MIT", "--author", "A", "--suite", "smoke"],
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_command_prints_of_a_url_what_it_prints_of_a_folder(kdbench, uploaded, local, words):
    def said(place):
        given = [word.replace("X", place, 1) if word.startswith("X") or "=X" in word else word for word in words]
        return [text.replace(place, "PLACE") if isinstance(text, str) else text for text in kdbench(*given)]

    for name, content in tree(local.folder).items():
        if "kd" not in name and not name.startswith("plan"):
            uploaded.put(f"run-other/{name}", content)
    shutil.copytree(local.folder, f"{local.folder}-other")
    shutil.rmtree(f"{local.folder}-other/plan")
    assert said(URL) == said(SAME)


def test_a_table_needs_no_networks_and_a_network_is_brought_alone(kdbench, uploaded, local):
    assert kdbench("leaderboard", URL)[0] == 0
    assert not (mirror().results / "students").exists()
    kdbench("export", URL, "kd:1", "--out", "there")
    assert [path.stem for path in (mirror().results / "students").iterdir()] == [spec("kd", 1).id]


def test_a_second_look_brings_only_what_changed(kdbench, uploaded, local):
    kdbench("leaderboard", URL)
    changed = local.get(spec("kd", 1).id)
    local.write(msgspec.structs.replace(changed, metrics={"test_accuracy": .9}))
    name = f"records/{changed.run_id}.json"
    uploaded.put(f"run/{name}", (local.folder / name).read_bytes())
    uploaded.delete(f"run/records/{spec('ce', 1).id}.json")
    uploaded.log.clear()
    first = kdbench("leaderboard", URL, "--format", "csv")[1]
    assert [one.name for one in uploaded.log if one.method == "GET" and one.name] == [f"run/{name}"]
    (local.folder / "records" / f"{spec('ce', 1).id}.json").unlink()
    assert first == kdbench("leaderboard", SAME, "--format", "csv")[1]


def test_a_damaged_object_is_what_a_damaged_file_is(kdbench, uploaded, local):
    name = f"records/{spec('kd', 1).id}.json"
    whole = (local.folder / name).read_bytes()
    for content in (whole[:len(whole) // 2], b"", whole.replace(b"0", b"1")):
        uploaded.put(f"run/{name}", content)
        (local.folder / name).write_bytes(content)
        for command in ("fsck", "leaderboard", "status"):
            there, here = kdbench(command, URL), kdbench(command, SAME)
            assert [str(text).replace(URL, SAME) for text in there] == [str(text) for text in here]
    code, out, _ = kdbench("fsck", URL, "--repair")
    assert code == 1 and "set aside as" in out
    assert f"{name}.corrupt-1" in objects(uploaded) and name not in objects(uploaded)


def test_names_that_are_no_results_are_left_alone(kdbench, uploaded, tmp_path):
    for name in ("../../up", "records/../../../up", "other/file", "records/.hidden", "data.bin", "records"):
        uploaded.put(f"run/{name}", b"")
    assert kdbench("leaderboard", URL)[0] == 0
    assert not [path for path in tmp_path.rglob("*") if path.name in ("up", "file", ".hidden", "data.bin")]


# Writing.

def test_folders_are_merged_into_a_url_and_out_of_it(kdbench, store, local, tmp_path):
    code, out, _ = kdbench("merge", SAME, "--out", URL)
    assert code == 0 and f"{URL}: 5 records; " in out and need_files_before_records(store) == 5
    assert objects(store) == of_local(mirror().results)
    assert "merge" in kdbench("merge", "--help")[1]
    code, out, _ = kdbench("merge", URL, "--out", "s3://bucket/all", "--dry-run")
    assert code == 0 and "to copy" in out and not store.objects("all")
    code, out, _ = kdbench("merge", URL, "--out", "s3://bucket/all")
    assert code == 0 and f"{URL} (5 records" in out
    assert msgspec.json.decode(store.get("all/merged.json"))["origins"][-1]["name"] == URL
    assert {name for name in objects(store, "all") if name != "merged.json"} == {
        name for name in of_local(local.folder)}


def test_a_report_goes_up_and_its_old_plots_go(kdbench, uploaded):
    uploaded.put("run/plots/old.svg", b"")
    assert kdbench("report", URL)[0] == 0
    assert "index.html" in objects(uploaded) and "plots/old.svg" not in objects(uploaded)
    assert kdbench("report", URL, "--check") == (0, "", "")


def test_a_store_that_goes_away_ends_the_command_with_1_and_the_next_one_uploads(kdbench, store, local, monkeypatch):
    for where, name in ((bucket, "PATIENCE"), (bucket, "FIRST_PATIENCE"), (door, "LAST_PATIENCE")):
        monkeypatch.setattr(where, name, 0.3)
    store.trouble = lambda number, method, name: "500" if method == "PUT" and "records/" in name else ""
    code, _, err = kdbench("merge", SAME, "--out", URL)
    assert code == 1 and re.fullmatch(rf"kdbench: {URL}: the store fails \(.*\); 7 files are on this machine only, and "
                                      r"the same command uploads them\n", err)
    assert not [name for name in objects(store) if name.startswith("records/")]
    assert "7 files are not uploaded" in kdbench("cache")[1]
    assert "not all of it is uploaded" in kdbench("cache", "prune", "remotes")[1] and mirror().results.is_dir()

    store.trouble = lambda number, method, name: "500"
    code, _, err = kdbench("merge", SAME, "--out", URL)
    assert code == 2 and err.startswith(f"kdbench: {URL}: the store fails (")

    store.trouble = lambda number, method, name: ""
    code, _, err = kdbench("leaderboard", URL)
    assert code == 0 and f"note: {URL}: 7 files are on this machine only" in err
    assert kdbench("merge", SAME, "--out", URL)[0] == 0 and objects(store) == of_local(mirror().results)
    assert "1 of remotes" in kdbench("cache", "prune", "remotes")[1] and not mirror().root.exists()


def test_a_mirror_that_could_not_be_brought_up_to_date_uploads_nothing(kdbench, uploaded, local, monkeypatch):
    kdbench("evaluate", URL)
    name = local.files.record(spec("kd", 1).id).name
    (mirror().results / "records" / name).write_text("changed here")
    uploaded.put(f"run/records/{name}", b"changed there")
    before = objects(uploaded)
    monkeypatch.setattr(bucket, "FIRST_PATIENCE", 0.2)
    monkeypatch.setattr(bucket, "PATIENCE", 0.2)
    uploaded.trouble = lambda number, method, one: "500" if one == f"run/records/{name}" and method == "GET" else ""
    assert kdbench("evaluate", URL)[0] == 2 and objects(uploaded) == before


def test_machines_in_turn_lose_no_file_and_the_store_wins_where_both_changed_one(kdbench, uploaded, local, tmp_path,
                                                                                 monkeypatch):
    def on(machine):
        monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / machine))

    def add(run, seconds):
        finish(Store(mirror().results), run, seconds=seconds)

    for machine, seed in (("a", 5), ("b", 6)):
        on(machine)
        kdbench("evaluate", URL)
        add(spec("kd", seed), 1.0)  # and not uploaded
        add(spec("kd", 9), float(seed))
    for machine in ("a", "b", "a"):
        on(machine)
        assert kdbench("evaluate", URL)[0] == 0
    names = {f"records/{spec('kd', seed).id}.json" for seed in (5, 6, 9)}
    assert names < objects(uploaded).keys()
    for machine in ("a", "b"):
        on(machine)
        kdbench("fsck", URL)
        assert objects(uploaded) == of_local(mirror().results)
    assert isinstance(found := Store(mirror().results).get(spec("kd", 9).id), Record)
    assert found.seconds == 5.0


def test_what_is_lost_of_a_mirror_is_brought_again_and_never_removed_at_the_store(kdbench, uploaded, local):
    kdbench("evaluate", URL)
    before = objects(uploaded)
    shutil.rmtree(mirror().results / "records")
    assert kdbench("evaluate", URL)[::2] == (0, "") and objects(uploaded) == before
    (mirror().index).write_text("{")
    assert kdbench("evaluate", URL)[0] == 0 and objects(uploaded) == before == of_local(mirror().results) | {
        name: sha256 for name, sha256 in before.items() if name.startswith("students/")}


# Refusals.

MISTAKES = {
    "no bucket": (["leaderboard", "s3://"], "s3://: it names no bucket, expected s3://BUCKET/FOLDER"),
    "other bucket": (["leaderboard", "s3://other/run"], "s3://other/run: there is no such bucket"),
    "bucket to write": (["evaluate", "s3://other/run"], "s3://other/run: there is no such bucket"),
    "protocol": (["leaderboard", "ss3://bucket/run"], "unknown kind of store 'ss3'; did you mean 's3'?"),
    "not installed": (["leaderboard", "gs://bucket/run"], "the package for gs:// is not installed: "),
    "shard": (["run", "smoke", "--shard", "1/2", "--out", URL], "--shard 1/2: on an object store each shard needs"),
    "local alone": (["new-method", "mine", "--family", "logit", "--out", URL],
                    f"--out {URL}: it has to be a folder of"),
    "suite": (["run", "smok", "--out", URL], "unknown suite 'smok'; did you mean 'smoke'?"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_at_the_store(kdbench, store, what):
    words, expected = MISTAKES[what]
    code, _, err = kdbench(*words)
    assert code == 2 and expected in err and err.count("\n") == 1
    assert store.objects() == {}


def test_credentials_and_endpoints_that_do_not_work_are_one_line(kdbench, store, monkeypatch):
    monkeypatch.setattr(bucket, "FIRST_PATIENCE", 0.1)
    store.trouble = lambda number, method, name: "403"
    code, _, err = kdbench("leaderboard", URL)
    assert code == 2 and "access denied (" in err and err.count("\n") == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    code, _, err = kdbench("leaderboard", URL)
    assert code == 2 and "the store cannot be reached (" in err and "AWS_ENDPOINT_URL" in err and err.count("\n") == 1
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    code, _, err = kdbench("leaderboard", URL)
    assert code == 2 and "no credentials (" in err and "AWS_PROFILE" in err and err.count("\n") == 1


def test_without_the_package_the_line_says_what_to_install(kdbench, store, monkeypatch):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    code, _, err = kdbench("leaderboard", "s3://fresh/run")
    assert code == 2 and "pip install 'kdbench[s3]'" in err


def test_a_url_of_the_protocol_file_is_a_local_folder(kdbench, local):
    assert kdbench("leaderboard", f"file://{local.folder}")[1] == kdbench("leaderboard", SAME)[1]
