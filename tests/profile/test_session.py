"""Sessions of measurements in real processes, and what is kept of them."""

from itertools import groupby

import pytest
from msgspec.structs import replace
from support.matrices import plugin, smoke
from support.profiles import comparison, profile, training

from kdbench.errors import UserError
from kdbench.execution.pool import LocalPool
from kdbench.folders import CacheFolder
from kdbench.profile.job import Settings
from kdbench.profile.record import profiles, read_profile, write_profile
from kdbench.profile.session import profile_jobs, run_profiles
from kdbench.results.record import Problem
from kdbench.results.store import Store
from kdbench.spec import Recipe


def test_a_plan_gives_each_pair_once_and_then_its_methods(tmp_path, cache):
    plan = smoke("kd", "ce", datasets=["synthetic", "mnist5k"])
    jobs = profile_jobs(plan, tmp_path, CacheFolder(cache), Settings())
    assert [(job.subject, job.spec.method, job.spec.dataset) for job in jobs if job.subject == "method"] == [
        ("method", "ce", "synthetic"), ("method", "kd", "synthetic"), ("method", "ce", "mnist5k"),
        ("method", "kd", "mnist5k")]
    assert [job.subject for job in jobs] == ["pair", "method", "method"] * 2
    assert len({job.id for job in jobs}) == 6
    assert {job.reference.name for job in jobs} == {"ce"}


def test_methods_are_measured_one_at_a_time_and_those_that_fail_are_told(tmp_path, cache):
    steps, said, teachers = tmp_path / "steps", [], sorted((cache / "teachers").glob("*/*"))
    trouble = f"open({str(steps)!r}, 'a').write(f'{{os.getpid()}}\\n')"
    files = [plugin(tmp_path, trouble, "first"), plugin(tmp_path, trouble, "second"),
             plugin(tmp_path, "os._exit(3)", "gone"), plugin(tmp_path, name="unfit")]
    plan = smoke("first", "second", "gone", "unfit", plugins=files)
    jobs = [job for job in profile_jobs(plan, tmp_path / "out", CacheFolder(cache), Settings(steps=4, repeats=2))
            if job.subject == "method"]
    unfit = next(job.id for job in jobs if job.spec.method == "unfit")
    pool = LocalPool(1)
    pool.start()
    found = {p.spec.method: p for p in run_profiles(jobs, {unfit: "too few stages"}, pool, said.append)}
    assert {name: (p.status, p.reason) for name, p in found.items()} == {
        "first": ("ok", None), "second": ("ok", None),
        "gone": ("crashed", "crashed: its process ended with exit code 3"),
        "unfit": ("inapplicable", "too few stages"),
    }
    pids = steps.read_text().split()
    assert len(list(groupby(pids))) == len(set(pids)) == 2
    assert {read_profile(Store(tmp_path / "out"), p.run_id).spec.method for p in found.values()} == found.keys()
    assert not (tmp_path / "out" / "records").exists() and sorted((cache / "teachers").glob("*/*")) == teachers
    assert any("FAILED" in line and "exit code 3" in line for line in said)
    assert any("n/a" in line and "too few stages" in line for line in said)
    assert any("[3/3]" in line for line in said)


def test_nothing_is_measured_beside_something_else(tmp_path, cache):
    jobs = profile_jobs(smoke("ce"), tmp_path, CacheFolder(cache), Settings())
    with pytest.raises(AssertionError):
        run_profiles(jobs, {}, LocalPool(2), print)
    with Store(tmp_path).lock(), pytest.raises(UserError, match="in use by another"):
        run_profiles(jobs, {}, LocalPool(1), print)


# What is kept.

def test_a_profile_is_read_as_it_was_written_and_replaced_by_the_next(tmp_path):
    first = profile(training=training(.01, 2.0, .1))
    write_profile(Store(tmp_path), first)
    assert read_profile(Store(tmp_path), first.run_id) == first
    second = replace(first, training=training(.02, 1.5))
    write_profile(Store(tmp_path), second)
    assert [found for found, _ in profiles(Store(tmp_path))] == [second]
    assert read_profile(Store(tmp_path), "0" * 16) is None


def test_damaged_profiles_are_told_and_the_others_read(tmp_path):
    good, cut = profile("pair", deployment=comparison()), profile(training=training(.01, 2.0))
    for item in (good, cut):
        write_profile(Store(tmp_path), item)
    path = Store(tmp_path).files.profile(cut.run_id)
    path.write_bytes(path.read_bytes()[:100])
    renamed = path.with_name("0123456789abcdef.json")
    renamed.write_bytes(good.to_json())
    changed = path.with_name(f"{'f' * 16}.json")
    changed.write_bytes(good.to_json().replace(b'"load_average"', b'"load"'))
    problems = {p.path.name: p.reason for p, _ in profiles(Store(tmp_path)) if isinstance(p, Problem)}
    assert problems.keys() == {path.name, renamed.name, changed.name}
    assert "truncated" in problems[path.name] and "named otherwise" in problems[renamed.name]
    assert "changed after it was written" in problems[changed.name]
    assert [p for p, _ in profiles(Store(tmp_path)) if not isinstance(p, Problem)] == [good]
    assert isinstance(read_profile(Store(tmp_path), cut.run_id), Problem)


def test_a_profile_under_the_id_of_another_is_not_written(tmp_path):
    other = profile().spec.model_copy(update={"recipe": Recipe(epochs=9, batch_size=8, image_size=8, lr=.1)})
    with pytest.raises(ValueError, match="is not the hash of its spec"):
        write_profile(Store(tmp_path), profile(run_id=other.id))


def test_a_profile_with_a_figure_that_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="seconds"):
        write_profile(Store(tmp_path), profile(seconds=float("nan")))
    assert list(tmp_path.iterdir()) == []
