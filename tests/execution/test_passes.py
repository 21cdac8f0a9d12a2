"""Which runs share a teacher pass, and what of the passes a budget keeps."""

import os

import pytest
from support.matrices import smoke

from kdbench.execution.job import Job
from kdbench.execution.passes import (
    AnswerSize,
    PassPlan,
    SharedPass,
    default_budget,
    pass_key,
    plan_passes,
    shared_passes,
    with_passes,
)
from kdbench.folders import CacheFolder
from kdbench.results.cached import passes

ALL = ("logits", "embedding", "stages")


def jobs_of(plan, tmp_path):
    return [Job(spec, plan.methods[spec.method], "student", plan.suite, tmp_path, CacheFolder(tmp_path))
            for spec in plan.students]


def keys(plan):
    return {(spec.method, spec.seed): pass_key(spec, plan.methods[spec.method]) for spec in plan.students}


def test_methods_share_a_pass_of_their_seed_whatever_else_they_do():
    found = keys(smoke("kd", "dkd", "fitnet", seeds=[0, 1]))
    assert found["kd", 0] == found["dkd", 0] == found["fitnet", 0] != found["kd", 1]


def test_a_self_teacher_has_a_pass_of_its_own_and_without_teacher_or_images_there_is_none():
    found = keys(smoke("ce", "kd", "ban", "byot", "dafl"))
    assert found["ce", 0] is found["byot", 0] is found["dafl", 0] is None
    assert found["kd", 0] != found["ban", 0] is not None


@pytest.mark.parametrize("setting, same", [
    ("recipe.epochs", True), ("recipe.lr", True), ("kd.temperature", True),
    ("recipe.batch_size", False), ("recipe.image_size", False)])
def test_a_pass_is_shared_by_runs_that_meet_the_same_batches(setting, same):
    """The teacher of the suite is trained by the recipe, too: it is the same one only if the suite's file says so."""
    plain = smoke("kd", settings={}).students[0]
    name = setting.partition(".")[2]
    changes = {"recipe": plain.recipe.model_copy(update={name: 8})} if setting.startswith("recipe") else {
        "hyperparameters": {**plain.hyperparameters, name: 8.0}}
    method = smoke("kd").methods["kd"]
    assert (pass_key(plain.model_copy(update=changes), method) == pass_key(plain, method)) is same


def test_a_pass_pays_from_the_second_pending_run_on_and_grows_to_the_longest(tmp_path):
    jobs = jobs_of(smoke("kd", "dkd", seeds=[0, 1]), tmp_path)
    one_seed = [job for job in jobs if job.spec.seed == 0] + [job for job in jobs if job.spec.method == "kd"][-1:]
    sizes = {job.id: AnswerSize(100 + place, 500, 1000) for place, job in enumerate(one_seed)}
    (shared,) = shared_passes(one_seed, sizes, budget=10_000)
    assert (shared.runs, shared.size, shared.parts) == (2, AnswerSize(101, 500, 1000), ALL)
    told = with_passes(one_seed, [shared])
    assert [job.teacher_pass.parts for job in told] == [ALL, ALL, ()]  # the single run may read what it finds


def test_inapplicable_runs_do_not_count(tmp_path):
    jobs = jobs_of(smoke("kd", "dkd"), tmp_path)
    assert shared_passes(jobs, {jobs[0].id: AnswerSize(1, 1, 1)}, budget=10) == []


@pytest.mark.parametrize("budget, kept", [
    (0, [0, 0]), (99, [0, 0]), (100, [1, 0]), (200, [1, 1]), (249, [1, 1]), (250, [2, 1]), (300, [2, 2]),
    (1299, [2, 2]), (1300, [3, 2]), (2300, [3, 3])])
def test_a_budget_goes_to_logits_of_all_passes_then_to_embeddings_then_to_stages(tmp_path, budget, kept):
    jobs = jobs_of(smoke("kd", "dkd", seeds=[0, 1]), tmp_path)
    shared = shared_passes(jobs, {job.id: AnswerSize(100, 50, 1000) for job in jobs}, budget)
    assert [one.parts for one in shared] == [ALL[:count] for count in kept]


def kept_passes(cache, sizes):
    """Passes of so many bytes in a cache, the first of them unused for longest."""
    for place, (key, size) in enumerate(sizes.items()):
        folder = cache.teacher_pass(key)
        folder.tensor("logits").mkdir(parents=True)
        (folder.tensor("logits") / "0").write_bytes(bytes(size))
        folder.note.write_text('{"key":"%s","pair":"p","dataset":"d","seed":0,"made_of":{}}' % key)  # noqa: UP031
        os.utime(folder.note, (place + 1, place + 1))
    return passes(cache)


def test_passes_of_other_plans_make_room_the_longest_unused_first(tmp_path):
    cache = CacheFolder(tmp_path)
    kept = kept_passes(cache, {"old": 1000, "mine": 1000, "new": 1000})
    shared = [SharedPass("mine", 2, AnswerSize(1000, 500, 9000), ALL[:2])]
    removed = PassPlan(shared, kept, 3000).make_room()
    assert [one.name for one in removed] == ["old"]
    assert {one.name for one in passes(cache)} == {"mine", "new"}
    assert PassPlan(shared, passes(cache), 3000).make_room() == []


def test_a_pass_of_the_plan_is_never_removed(tmp_path):
    cache = CacheFolder(tmp_path)
    kept = kept_passes(cache, {"mine": 1000})
    assert PassPlan([SharedPass("mine", 2, AnswerSize(5000, 0, 0), ALL[:1])], kept, 10).make_room() == []


def test_the_default_budget_is_a_tenth_of_what_is_free_and_of_what_passes_take(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 5000})())
    cache = CacheFolder(tmp_path / "not" / "there")
    assert default_budget(cache, []) == 500
    assert default_budget(cache, kept_passes(CacheFolder(tmp_path), {"a": 900})) == pytest.approx(590, abs=10)


def test_the_plan_says_what_its_passes_take():
    cifar = AnswerSize(4_800_000_000, 12_300_000_000, 10**12)
    shared = [SharedPass("a", 3, cifar, ALL[:1]), SharedPass("b", 2, AnswerSize(10**8, 2 * 10**8, 3 * 10**9), ALL)]
    assert PassPlan(shared, [], 10**10).lines() == [
        "teacher passes: 5 runs share the answers of a teacher in 2 passes: up to 4.9 GB of logits, 200 MB of "
        "embeddings, 3.0 GB of stages; --teacher-cache 10 GB",
        "teacher passes: beyond --teacher-cache 10 GB, and computed by each run that uses them: 12 GB of embeddings of "
        "1 pass, 1.0 TB of stages of 1 pass"]
    assert PassPlan([SharedPass("a", 3, cifar, ())], [], 10**9).lines()[0].startswith(
        "teacher passes: beyond --teacher-cache 1.0 GB, and computed by each run that uses them: 4.8 GB of logits of 1")
    assert PassPlan([], [], 10).lines() == []


def test_a_budget_of_nothing_shares_nothing_and_a_plan_writes_nothing(tmp_path):
    jobs = jobs_of(smoke("kd", "dkd"), tmp_path)
    sizes = {job.id: AnswerSize(1, 1, 1) for job in jobs}
    cache = CacheFolder(tmp_path / "cache")
    assert (plan_passes(cache, jobs, sizes, 0).shared, plan_passes(cache, jobs, sizes, 0).lines()) == ([], [])
    assert plan_passes(cache, jobs, sizes, None).bytes == 3
    assert not cache.root.exists()
