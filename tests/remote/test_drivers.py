"""Commands that write at the same time, one after another, or that are killed."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from support.folders import finish
from support.matrices import plugin
from support.records import spec

from kdbench import api
from kdbench.errors import UserError
from kdbench.finished.evaluate import Evaluation
from kdbench.folders import CacheFolder
from kdbench.remote.lease import Note
from kdbench.remote.place import mirror_of
from kdbench.results.repeated import differing
from kdbench.results.store import Store

URL = "s3://bucket/run"
KDBENCH = str(Path(sys.executable).parent / "kdbench")


def mirror():
    return mirror_of(URL, CacheFolder.of_user())


@pytest.fixture
def writing(monkeypatch):
    """Lets `kdbench evaluate` do something else in the folder."""
    def let(action):
        def evaluate(folder, cache):
            action(folder)
            return Evaluation(0, 0, ())

        monkeypatch.setattr("kdbench.finished.evaluate.evaluate", evaluate)
    return let


def records(store):
    return {name for name in store.objects() if name.startswith("records/")}


def test_a_second_command_is_refused_while_the_first_one_lives(kdbench, store, writing, monkeypatch, tmp_path):
    refused = []

    def ask(folder):
        refused.append(kdbench("evaluate", URL))
        with monkeypatch.context() as patch:
            patch.setenv("KDBENCH_CACHE", str(tmp_path / "another machine"))
            refused.append(kdbench("evaluate", URL))
            refused.append(kdbench("leaderboard", URL))

    writing(ask)
    assert kdbench("evaluate", URL)[0] == 0
    here, elsewhere, reading = refused
    process = f"process {os.getpid()} on {socket.gethostname()}"
    assert here[0] == 2 and f"in use by another kdbench on this machine ({process})" in here[2]
    assert elsewhere[0] == 2 and re.fullmatch(
        rf"kdbench: {URL}: in use by {process}; its lease ends in 1\d\d s, at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, "
        r"unless that process renews it\n", elsewhere[2])
    assert "no records here" in reading[2]
    writing(lambda folder: None)
    assert kdbench("evaluate", URL)[0] == 0


def test_who_reads_on_the_machine_that_writes_reads_what_was_written_last(kdbench, store, writing):
    told = []

    def write(folder):
        finish(Store(folder), spec())
        told.append(kdbench("list", "runs", URL))

    writing(write)
    assert kdbench("evaluate", URL)[0] == 0
    assert told[0][0] == 0 and spec().id in told[0][1]


def test_a_command_that_lost_its_lease_stops_and_keeps_what_it_has(kdbench, store, writing, monkeypatch):
    monkeypatch.setenv("KDBENCH_LEASE_SECONDS", "1")

    def lose(folder):
        (name,) = store.objects()
        other = Note(9, 100.0, True, "elsewhere", 77, "b")
        store.put("run/.lease/other.json", msgspec.json.encode(other))
        store.delete(f"run/{name}")
        finish(Store(folder), spec())
        time.sleep(10)
        ended.append("it was not stopped")

    ended = []
    writing(lose)
    code, _, err = kdbench("evaluate", URL)
    assert not ended
    assert (code, err) == (2, f"kdbench: {URL}: the lease of this command ran out, and process 77 on elsewhere took "
                              "the folder over: what was finished here is kept on this machine, and the same command "
                              "adds it\n")
    assert store.objects().keys() == {".lease/other.json"}
    store.delete("run/.lease/other.json")
    writing(lambda folder: None)
    assert kdbench("evaluate", URL)[0] == 0 and len(records(store)) == 1


def test_a_store_that_is_away_for_a_while_stops_no_command(kdbench, store, writing, monkeypatch):
    monkeypatch.setenv("KDBENCH_LEASE_SECONDS", "1")
    monkeypatch.setattr("kdbench.remote.bucket.PATIENCE", 0.2)
    monkeypatch.setattr("kdbench.remote.door.UPLOAD_EVERY", 0.1)

    def write(folder):
        store.trouble = lambda number, method, name: "500"
        finish(Store(folder), spec())
        time.sleep(1.5)
        store.trouble = lambda number, method, name: ""
        until(lambda: records(store), 20)

    writing(write)
    code, _, err = kdbench("evaluate", URL)
    assert code == 0 and len(records(store)) == 1
    assert re.fullmatch(rf"note: {URL}: the store fails \(.*\); results are kept on this machine until they can be "
                        r"uploaded\n", err)


def test_ctrl_c_uploads_what_is_finished_and_gives_the_folder_back(kdbench, store, writing):
    def interrupt(folder):
        finish(Store(folder), spec())
        raise KeyboardInterrupt

    writing(interrupt)
    assert kdbench("evaluate", URL)[0] == 130
    assert len(records(store)) == 1 and not [name for name in store.objects() if name.startswith(".lease/")]


def test_functions_of_python_take_urls(store, tmp_path, monkeypatch):
    finish(Store(tmp_path / "local"), spec(), accuracy=.5)
    for path in (tmp_path / "local").rglob("*.*"):
        store.put(f"run/{path.relative_to(tmp_path / 'local')}", path.read_bytes())
    assert list(api.runs(URL)["run"]) == list(api.runs(Path(URL))["run"]) == [spec().id]
    assert list(api.leaderboard(URL)["method"]) == list(api.leaderboard(tmp_path / "local")["method"])
    with pytest.raises(UserError, match="s3://bucket/none: no records here"):
        api.runs("s3://bucket/none")
    ended = []
    thread = threading.Thread(target=lambda: ended.append(api.runs(URL)))
    thread.start()
    thread.join()
    assert len(ended[0]) == 1


# With runs that train.

SUITE = ("smoke", "--methods", "ce,kd", "--seeds", "2", "--workers", "1", "--out")


def driver(machine, *words, seconds="4"):
    return subprocess.Popen(
        [KDBENCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "KDBENCH_CACHE": str(machine), "KDBENCH_LEASE_SECONDS": seconds})


@pytest.mark.slow
def test_another_machine_goes_on_after_one_that_was_killed(store, tmp_path):
    slow = plugin(tmp_path, "time.sleep(.05)")
    words = ("run", *SUITE, URL, "--plugin", slow)
    words = tuple(word if word != "ce,kd" else "ce,kd,mine" for word in words)
    first = driver(tmp_path / "a", *words)
    until(lambda: len(records(store)) >= 2)
    second = driver(tmp_path / "b", *words)
    _, said = second.communicate(timeout=120)
    assert second.returncode == 2 and f"in use by process {first.pid} on {socket.gethostname()}; its lease ends" in said
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = records(store)
    assert len(before) < 7
    need_whole(store)
    time.sleep(6)
    third = driver(tmp_path / "b", *words)
    out, err = third.communicate(timeout=300)
    assert third.returncode == 0, err
    assert f"{len(before) - 1} runs were finished before" in out
    need_whole(store)
    assert len(records(store)) == 7 and not [name for name in store.objects() if name.startswith(".lease/")]
    local = subprocess.run([KDBENCH, *words[:-3], "local", *words[-2:]], cwd=tmp_path, check=True, capture_output=True,
                           env={**os.environ, "KDBENCH_CACHE": str(tmp_path / "c")})
    assert local.returncode == 0
    api.runs(URL)
    there, here = Store(mirror().results).read()[0], Store(tmp_path / "local").read()[0]
    assert [differing(one, other) for one, other in zip(there, here, strict=True)] == [[]] * 7


@pytest.mark.slow
def test_the_same_machine_goes_on_at_once_after_it_was_killed(store, tmp_path):
    words = ("run", *SUITE, URL)
    first = driver(tmp_path / "a", *words, seconds="3600")
    until(lambda: len(records(store)) >= 2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = driver(tmp_path / "a", *words, seconds="3600")
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert len(records(store)) == 5
    need_whole(store)


@pytest.mark.slow
def test_tuning_profiles_and_tuned_runs_lie_at_the_store_as_in_a_folder(kdbench, store, tmp_path):
    tuned, finals = "s3://bucket/tuned", "s3://bucket/run"
    few = ("--methods", "kd", "--set", "recipe.epochs=1")
    for folder, finals in ((tuned, URL), ("tuned", "run")):
        assert kdbench("tune", "smoke", *few, "--trials", "2", "--tune-seeds", "1", "--out", folder)[0] == 0
        shutil.rmtree(mirror_of(tuned, CacheFolder.of_user()).root, ignore_errors=True)
        assert kdbench("run", "smoke", *few, "--seeds", "1", "--tuned", folder, "--out", finals)[0] == 0
        assert kdbench("profile", "smoke", *few, "--steps", "2", "--repeats", "1", "--out", finals)[0] == 0
    for folder in ("tuned", "run"):
        local = {path.relative_to(tmp_path / folder).as_posix() for path in (tmp_path / folder).rglob("*.*")
                 if path.is_file() and not path.name.startswith(".")}
        assert store.objects(folder).keys() == local
    assert "tune/choices.json" in store.objects("tuned").keys() & store.objects("run").keys()
    assert hashes(Store(mirror().results)) == hashes(Store(tmp_path / "run"))


def hashes(store):
    return [(one.run_id, one.weights_sha256, one.metrics.get("test_accuracy")) for one in store.read()[0]]


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def need_whole(store):
    """Every record at the store has its files there."""
    there = store.objects()
    for name in there:
        if name.startswith("records/"):
            found = msgspec.json.decode(store.get(f"run/{name}"))
            if found["role"] == "student":
                assert there[f"students/{found['run_id']}.safetensors"] == found["weights_sha256"]
            assert there[f"predictions/{found['run_id']}.npz"] == found["predictions_sha256"]
            assert hashlib.sha256(store.get(f"run/{name}")).hexdigest() == there[name]
