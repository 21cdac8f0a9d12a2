import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from kdbench.disk import atomic_write, file_sha256, set_aside
from kdbench.errors import UserError
from kdbench.paper import Paper
from kdbench.plugins.source import Facts
from kdbench.results.record import Planned, Problem, Record, decode
from kdbench.results.store import Store
from kdbench.spec import Architecture, Recipe, RunSpec, TrainedTeacher

RECIPE = Recipe(epochs=2, batch_size=8, image_size=8, lr=0.1)
FACTS = Facts(idea="An idea.", conditions=("with kd",), defaults={"alpha": 0.9, "mode": "soft", "on": True, "steps": 3},
              paper=Paper(title="A Title", authors=("Ann Bee",), year=2020, venue="ICLR"))


def spec(method="kd", seed=0) -> RunSpec:
    teacher = RunSpec(method="ce", pair="tiny", student=Architecture(model="resnet18"), dataset="synthetic",
                      recipe=RECIPE, seed=0)
    return RunSpec(method=method, pair="tiny", student=Architecture(model="lcnet_035"),
                   teacher=TrainedTeacher(run=teacher), dataset="synthetic", recipe=RECIPE, seed=seed)


def record(run=None, **changes) -> Record:
    run = run or spec()
    fields = dict(
        run_id=run.id, role="student", suite="smoke", spec=run, status="ok", seconds=1.5,
        metrics={"test_accuracy": 0.75}, curves={"ce": [1.5, 0.25]}, method_digest="d" * 64,
        environment={"torch": "2.6", "threads": 1}, started="2026-01-01T00:00:00Z", finished="2026-01-01T00:00:02Z",
    )
    return Record(**{**fields, **changes})


def predictions() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "validation_logits": generator.normal(size=(3, 4)).astype(np.float32), "validation_labels": np.array([0, 1, 3]),
        "test_logits": generator.normal(size=(2, 4)).astype(np.float32), "test_labels": np.array([2, 1]),
    }


def fields_of(entry: Record) -> dict:
    """A record's content as JSON, without the digest at its end."""
    fields = json.loads(entry.to_json())
    del fields["sha256"]
    return fields


def damage(store: Store, content: bytes, name="0123456789abcdef") -> Problem:
    """The problem that a record file of such content gives."""
    atomic_write(store.files.record(name), content)
    records, problems = store.read()
    assert records == []
    (problem,) = problems
    assert problem.path == store.files.record(name)
    return problem


# Records.

def test_a_record_comes_back_as_it_was_written(tmp_path):
    written = record(traceback='a "quoted"\nline', peak_memory_bytes=7, facts=FACTS, classes=("a", "b"))
    store = Store(tmp_path)
    store.write(written)
    assert store.get(written.run_id) == written
    assert store.read() == ([written], [])


def test_the_same_record_gives_the_same_bytes_with_one_line_per_field():
    content = record().to_json()
    assert content == record().to_json()
    assert len(content.splitlines()) == len(Record.__struct_fields__) + 3  # braces and the digest
    assert json.loads(content)["spec"] == record().spec.model_dump(mode="json")
    assert decode(Record, content) == record()


def test_a_record_of_any_size_is_read_whole(tmp_path):
    large = record(curves={"loss": [i / 7 for i in range(20_000)]})
    Store(tmp_path).write(large)
    assert Store(tmp_path).files.record(large.run_id).stat().st_size > 200_000
    assert Store(tmp_path).get(large.run_id) == large


def test_an_empty_or_absent_folder_holds_no_records(tmp_path):
    assert Store(tmp_path / "absent").read() == ([], [])
    assert Store(tmp_path).get("0123456789abcdef") is None
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("changes", [
    {"metrics": {"test_accuracy": float("nan")}}, {"curves": {"ce": [float("inf")]}}, {"status": "fine"},
    {"started": "yesterday"}, {"started": "2026-01-01T00:00:00+02:00"}, {"run_id": "0123456789abcdef"},
    {"seconds": "long"}, {"environment": {"torch": object()}},
])
def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path, changes):
    with pytest.raises((ValueError, TypeError)):
        Store(tmp_path).write(record(**changes))
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_numpy_are_written_as_numbers(tmp_path):
    Store(tmp_path).write(record(metrics={"test_accuracy": np.float64(.5)}))
    assert Store(tmp_path).read()[0][0].metrics == {"test_accuracy": .5}


def test_a_record_has_no_unknown_fields():
    with pytest.raises(TypeError, match="colour"):
        record(colour=1)


def test_a_truncated_record_is_a_problem_and_the_others_are_still_read(tmp_path):
    store, good, bad = Store(tmp_path), record(spec(seed=0)), record(spec(seed=1))
    store.write(good)
    store.write(bad)
    path = store.files.record(bad.run_id)
    path.write_bytes(path.read_bytes()[:200])
    records, problems = store.read()
    assert records == [good]
    assert [p.path for p in problems] == [path]
    assert "truncated or not JSON" in problems[0].reason
    assert store.get(bad.run_id) == problems[0]


def test_damaged_records_are_problems_that_say_what_is_wrong(tmp_path):
    store, good = Store(tmp_path), fields_of(record())
    run_id = good["run_id"]
    assert "not JSON" in damage(store, b"").reason
    assert "not JSON" in damage(store, b"\xff\xfe\x00").reason
    assert "object" in damage(store, b"[1, 2]").reason
    assert damage(store, json.dumps({**good, "schema_version": 2, "later": 1}).encode()).reason == \
        "schema version 2, this kdbench reads 1"
    assert "seconds" in damage(store, json.dumps({**good, "seconds": "long"}).encode()).reason
    other = {**good, "spec": {**good["spec"], "seed": 5}}
    assert "not the hash of its spec" in damage(store, json.dumps(other).encode()).reason
    assert f"run id, {run_id}" in damage(store, json.dumps(good).encode()).reason


def test_what_tables_read_is_the_record_without_its_details(tmp_path):
    versions = {"versions": {"torch": "2.14.1"}}
    store, written = Store(tmp_path), record(family="logit", peak_memory_bytes=3, notes=["a"], traceback="b",
                                             environment={**versions, "cpu": "of some maker"})
    store.write(written)
    ((found, sha256),) = store.scan_with_hashes()
    assert found == replace(written, curves={}, environment=versions, notes=[], traceback=None,
                            started="", finished="") != written
    assert (found.spec.id, found.spec.cell) == (written.spec.id, written.spec.cell)
    assert sha256 == file_sha256(store.files.record(written.run_id))


@pytest.mark.parametrize(("changes", "reason"), [
    ({"spec": {"colour": 1}}, "unknown field 'colour'"), ({"spec": {"teacher": {}}}, "spec.teacher"),
    ({"spec": {"seed": "0"}}, "spec.seed"), ({"spec": {"recipe": {"epochs": 1}}}, "spec.recipe.batch_size"),
    ({"spec": {"pair": None}}, "spec.pair"), ({"spec": {"hyperparameters": [1]}}, "spec.hyperparameters"),
    ({"metrics": {"test_accuracy": "NaN"}}, "metrics[...]"), ({"colour": 1}, "unknown field `colour`"),
    ({"curves": {"loss": [None]}}, "curves"), ({"status": None}, "status"),
])
def test_a_field_of_a_wrong_type_is_named(tmp_path, changes, reason):
    good = fields_of(record())
    for name, value in changes.items():
        good[name] = {**good[name], **value} if name == "spec" else value
    assert reason in damage(Store(tmp_path), json.dumps(good).encode()).reason


def test_content_that_was_changed_or_written_anew_is_told_by_its_digest(tmp_path):
    content = record().to_json()
    changed = content.replace(b"0.75", b"0.76")
    assert changed != content and "changed after it was written" in damage(Store(tmp_path), changed).reason
    anew = json.dumps(json.loads(content)).encode()
    assert "does not end with its SHA-256" in damage(Store(tmp_path), anew).reason


def test_a_record_of_kdbench_0_1_without_a_digest_is_read(tmp_path):
    atomic_write(Store(tmp_path).files.record(record().run_id), json.dumps(fields_of(record())).encode())
    assert Store(tmp_path).read() == ([record()], [])


def test_a_spec_that_lacks_a_field_is_a_problem(tmp_path):
    good = fields_of(record())
    del good["spec"]["seed"]
    assert "missing field 'seed'" in damage(Store(tmp_path), json.dumps(good).encode()).reason


def test_a_folder_in_the_place_of_a_record_is_a_problem(tmp_path):
    store = Store(tmp_path)
    store.files.record("0123456789abcdef").mkdir(parents=True)
    assert "cannot be read" in store.read()[1][0].reason


def test_a_half_written_or_set_aside_file_is_never_taken_for_a_record(tmp_path):
    store, good = Store(tmp_path), record()
    store.write(good)
    path = store.files.record(good.run_id)
    path.with_name(f".{path.name}.123-abcd.tmp").write_bytes(path.read_bytes()[:50])
    aside = set_aside(path)
    assert aside.name == f"{path.name}.corrupt-1"
    assert store.read() == ([], [])
    store.write(good)
    assert set_aside(path).name == f"{path.name}.corrupt-2"


def test_a_write_that_fails_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "records" / "a.json"
    atomic_write(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_content_is_on_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(
        "sync folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path else "sync file"))
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), rename(self, to)))
    atomic_write(tmp_path / "a", b"content")
    assert events == ["sync file", "rename", "sync folder"]


# The plan.

def test_the_plan_is_the_union_of_all_that_was_asked_for(tmp_path):
    store = Store(tmp_path)
    first, second = (Planned(suite="smoke", role="student", spec=spec(seed=seed)) for seed in (0, 1))
    store.plan([first])
    store.plan([first, second])
    planned, problems = store.planned()
    assert {p.spec.seed for p in planned} == {0, 1} and problems == []
    assert store.planned(but={first.spec.id})[0] == [second]


def test_a_damaged_plan_file_is_a_problem_and_is_written_anew_by_the_next_plan(tmp_path):
    store, wanted = Store(tmp_path), Planned(suite="smoke", role="student", spec=spec())
    atomic_write(store.files.plan(wanted.spec.id), b'{"suite": ')
    assert "not JSON" in store.planned()[1][0].reason
    store.plan([wanted])
    assert store.planned() == ([wanted], [])


# Predictions.

def test_predictions_come_back_and_the_same_arrays_give_the_same_file(tmp_path):
    one, two, arrays = Store(tmp_path / "1"), Store(tmp_path / "2"), predictions()
    digest = one.write_predictions("run", arrays)
    assert digest == two.write_predictions("run", dict(reversed(arrays.items())))
    back = one.read_predictions("run", digest)
    assert all((back[name] == array).all() and back[name].shape == array.shape for name, array in arrays.items())
    arrays["test_logits"][0, 0] += 1
    assert two.write_predictions("run", arrays) != digest


@pytest.mark.parametrize("ruin", [
    lambda content: content[:100], lambda content: b"", lambda content: b"not a zip file",
    lambda content: content.replace(b"NUMPY", b"NUMPX"),
])
def test_damaged_predictions_are_a_user_error(tmp_path, ruin):
    store = Store(tmp_path)
    store.write_predictions("run", predictions())
    path = store.files.predictions("run")
    path.write_bytes(ruin(path.read_bytes()))
    with pytest.raises(UserError, match="damaged"):
        store.read_predictions("run")


def test_predictions_that_are_missing_or_not_the_recorded_ones_are_a_user_error(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UserError, match="no saved predictions of run run"):
        store.read_predictions("run")
    store.write_predictions("run", predictions())
    with pytest.raises(UserError, match="SHA-256"):
        store.read_predictions("run", "0" * 64)


def test_pickled_objects_in_a_predictions_file_are_refused(tmp_path):
    path = Store(tmp_path).files.predictions("run")
    path.parent.mkdir()
    np.savez(path, **{**predictions(), "test_labels": np.array([{}, {}], dtype=object)})
    with pytest.raises(UserError, match="damaged"):
        Store(tmp_path).read_predictions("run")


@pytest.mark.parametrize(("name", "array"), [
    ("test_logits", np.zeros((2, 4))), ("test_logits", np.zeros(2, np.float32)), ("test_labels", np.zeros(3, int)),
    ("test_labels", np.zeros(2)),
])
def test_arrays_of_a_wrong_shape_or_type_are_not_written(tmp_path, name, array):
    with pytest.raises(ValueError, match=name):
        Store(tmp_path).write_predictions("run", {**predictions(), name: array})
    with pytest.raises(ValueError, match="expected the arrays"):
        Store(tmp_path).write_predictions("run", {name: array})


# One writer at a time.

HOLD = ("import sys; from kdbench.results.store import Store\n"
        "with Store(sys.argv[1]).lock(): print('held', flush=True); input()")


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone_even_if_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by another.*process {holder.pid}"), Store(tmp_path).lock():
            pass
        holder.kill()
    with Store(tmp_path).lock():
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {socket.gethostname()}"


def test_the_lock_creates_the_folder_and_clears_what_killed_processes_left(tmp_path):
    left = tmp_path / "out" / "records" / ".a.json.1-2.tmp"
    with Store(tmp_path / "out").lock():
        left.parent.mkdir()
        left.touch()
    with Store(tmp_path / "out").lock():
        assert not left.exists()


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not writable"), Store(tmp_path / "file").lock():
        pass
    with pytest.raises(UserError, match="not writable"), Store(tmp_path / "file" / "below").lock():
        pass


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.name)], ids=["folder", "loop"])
def test_a_folder_whose_lock_is_no_file_is_a_user_error(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"not writable: .*\.lock"), Store(tmp_path).lock():
        pass


def test_a_folder_on_a_disk_without_locks_is_not_told_to_be_unwritable(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"disk cannot lock files: .*\.lock: flock: Function not impl.*--out") as error:
        Store(tmp_path).lock().__enter__()
    assert "not writable" not in str(error.value)


MEASURE = """
import sys, tracemalloc
from kdbench.results.store import Store
list(Store(sys.argv[1]).scan_with_hashes())  # what is read once and kept: types, specs of teachers
tracemalloc.start()
kept = list(Store(sys.argv[1]).scan_with_hashes())
print(tracemalloc.get_traced_memory()[0] / len(kept))
"""


def test_records_for_tables_take_less_than_1700_bytes_each_and_say_the_same(tmp_path):
    store, metrics = Store(tmp_path), {f"metric{i}": i / 7 for i in range(22)}
    for seed in range(300):
        store.write(record(spec(seed=seed), metrics={**metrics, "seed": float(seed)}, weights_sha256=f"{seed:064}",
                           predictions_sha256=f"{seed:064}", dataset_digest="e" * 64, family="logit",
                           environment={"host": "x" * 500}, curves={"ce": [0.5] * 100}, facts=FACTS,
                           vectors={"class_accuracy": [seed / 300, None] * 5, "reliability_images": [0.5] * 15},
                           classes=tuple("abcdefghij"), split_sizes={"train": 2000, "test": 10}))
    taken = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True).stdout
    assert float(taken) < 1700
    kept, _ = next(store.scan_with_hashes())
    whole = store.get(kept.run_id)
    assert dict(kept.metrics) == whole.metrics and kept.spec == whole.spec and kept.facts == whole.facts
    assert dict(kept.vectors) == {"class_accuracy": whole.vectors["class_accuracy"]}
    assert (kept.classes, kept.split_sizes) == (whole.classes, whole.split_sizes)


def test_importing_the_store_imports_no_torch_scipy_or_pandas():
    code = "import sys, kdbench.results.store; print([m for m in ('torch', 'scipy', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path):
    store, runs = Store(tmp_path), sorted((spec(seed=seed) for seed in range(20)), key=lambda run: run.id)
    for run in runs:
        store.write(record(run))
    assert store.find(runs[3].id) == record(runs[3])
    assert store.find(runs[3].id[:8]) == record(runs[3])
    with pytest.raises(UserError, match=r"no single run '' among 20: 20 begin with it"):
        store.find("")
    wrong = runs[3].id[:-1] + ("0" if runs[3].id[-1] != "0" else "1")
    with pytest.raises(UserError, match=f"no single run '{wrong}' among 20: the nearest is {runs[3].id}"):
        store.find(wrong)
    with pytest.raises(UserError, match="none is near"):
        store.find("zzz")


def test_a_damaged_run_or_an_empty_folder_is_told_when_a_run_is_looked_for(tmp_path):
    with pytest.raises(UserError, match="no records here"):
        Store(tmp_path).find("a")
    Store(tmp_path).write(record())
    Store(tmp_path).files.record(spec().id).write_bytes(b"{")
    with pytest.raises(UserError, match=f"{spec().id}.json: truncated or not JSON"):
        Store(tmp_path).find(spec().id)


def test_a_record_whose_method_s_paper_has_no_author_is_refused(tmp_path):
    fields = fields_of(record(facts=FACTS))
    fields["facts"]["paper"]["authors"] = [" "]
    reason = damage(Store(tmp_path), json.dumps(fields).encode()).reason
    assert reason.startswith("facts.paper: a paper has one author or more")


def test_a_run_is_found_by_its_method_and_seed_where_these_are_its_own(tmp_path):
    store = Store(tmp_path)
    for seed in range(3):
        store.write(record(spec(seed=seed)))
    store.write(record(spec(seed=7), role="trial"))
    assert store.find("kd:1") == record(spec(seed=1))
    with pytest.raises(UserError, match=r"unknown run in .* 'kd:7'; did you mean 'kd:2'"):
        store.find("kd:7")
    with pytest.raises(UserError, match="no records here"):
        Store(tmp_path / "empty").find("kd:1")
