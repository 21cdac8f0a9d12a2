"""`kdbench cache` and `kdbench run --teacher-cache`."""

import json

import pytest
from support.matrices import smoke, teacher_job

from kdbench.folders import CacheFolder
from kdbench.results.store import Store
from kdbench.train.worker import run_job

RUN = ("run", "smoke", "--methods", "kd,dkd,at", "--seeds", "1", "--workers", "1")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    folder = CacheFolder(tmp_path / "own")
    monkeypatch.setenv("KDBENCH_CACHE", str(folder.root))
    run_job(teacher_job(smoke("ce"), folder.root))
    return folder


def hashes(folder):
    return {record.spec.method: record.weights_sha256 for record in Store(folder).read()[0] if record.role == "student"}


def test_a_matrix_shares_a_pass_lists_it_and_frees_it(kdbench, own_cache, tmp_path):
    code, out, err = kdbench(*RUN, "--out", "shared")
    assert (code, err) == (0, "")
    assert "teacher passes: 3 runs share the answers of a teacher in 1 pass: " in out
    assert kdbench(*RUN, "--out", "live", "--teacher-cache", "0")[0] == 0
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "live") and len(hashes(tmp_path / "live")) == 3

    code, out, err = kdbench("cache")
    assert code == 0 and "teacher of tiny on synthetic, seed 0: embedding, logits, stages0" in out
    listed = json.loads(kdbench("cache", "--json")[1])
    # Locks of runs, and corrupted test images.
    assert {one["kind"] for one in listed} == {"passes", "teachers", "unfinished", "data"}
    assert [one["name"] for one in listed if one["kind"] == "unfinished"] == ["locks"]
    assert "1 of passes" in kdbench("cache", "prune", "--dry-run")[1] and own_cache.passes.is_dir()
    assert "0 of passes" in kdbench("cache", "prune", "--unused-for", "1")[1]
    assert "1 of passes" in kdbench("cache", "prune")[1]
    assert "teacher of tiny" not in kdbench("cache")[1] and "resnet_cifar of tiny" in kdbench("cache")[1]


@pytest.mark.slow
def test_nothing_is_kept_without_a_budget_or_for_a_single_run(kdbench, own_cache):
    out = kdbench(*RUN, "--out", "none", "--teacher-cache", "0")[1]
    assert "teacher passes" not in out and not own_cache.passes.exists()
    out = kdbench("run", "smoke", "--methods", "kd", "--seeds", "2", "--workers", "1")[1]
    assert "teacher passes" not in out and not own_cache.passes.exists()


def test_an_empty_cache_is_listed_and_pruned_without_a_complaint(kdbench, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "none"))
    assert kdbench("cache") == (0, f"0 B in {tmp_path / 'none'}\n", "")
    assert kdbench("cache", "prune")[:2] == (0, f"0 B freed in {tmp_path / 'none'}: 0 of passes\n")


@pytest.mark.parametrize("arguments, said", [
    (("cache", "prune", "pases"), "unknown kind of cached files 'pases'; did you mean 'passes'?"),
    (("cache", "prunes"), "No such command 'prunes'"),
    (("cache", "prune", "--unused-for", "-1"), "--unused-for"),
    (("run", "smoke", "--teacher-cache", "8"), "--teacher-cache 8: expected a size such as 8GB"),
    (("run", "smoke", "--teacher-cache", "-8GB"), "--teacher-cache"),
])
def test_bad_input_is_one_line_and_exit_code_2(kdbench, tmp_path, monkeypatch, arguments, said):
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "none"))
    code, out, err = kdbench(*arguments)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1
