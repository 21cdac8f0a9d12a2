"""`kdbench run --shard` and `--retry` as a user types them."""

import json

import pytest
from support.matrices import smoke

from kdbench.execution.shard import Shard, Share, owners
from kdbench.results.store import Store

ASKED = ["run", "smoke", "--methods", "kd,ban", "--set", "recipe.epochs=1", "--workers", "1"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--shard", "0/3"], "--shard 0/3: expected NUMBER/COUNT"), (["--shard", "4/3"], "--shard 4/3: expected"),
    (["--shard", "a/b"], "--shard a/b: expected"), (["--retry", "fialed"], "did you mean 'failed'?"),
    (["--wait-for-teachers", "-1"], "--wait-for-teachers"),
])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_bad_input_is_one_line_with_exit_code_2_and_writes_nothing(kdbench, tmp_path, arguments, message, more):
    code, out, err = kdbench(*ASKED, *arguments, *more)
    assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_tells_of_the_runs_of_the_part_alone(kdbench):
    plan = smoke("kd", "ban", seeds=2, settings={"recipe.epochs": 1})
    for number in (1, 2):
        part = Share.of(plan, Shard(number, 2)).part_of(plan)
        code, out, _ = kdbench(*ASKED, "--shard", f"{number}/2", "--dry-run", "--json")
        found = json.loads(out)
        assert (code, found["runs"]) == (0, len(part.students)) and found["teachers"] <= len(part.teachers)
        assert sum(row["to_do"] for row in found["rows"]) == found["runs"] + found["teachers"]


def test_runs_that_wait_for_a_teacher_of_another_part_are_told_with_exit_code_1(kdbench, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    asked = [*ASKED, "--seeds", "1", "--out", "out", "--wait-for-teachers", "0"]
    ended = []
    for shard in ("2/2", "1/2", "2/2"):
        code, out, err = kdbench(*asked, "--shard", shard)
        waits = "wait for teachers of other shards" in out
        assert code == waits and err == "" and ("not begun: the teachers are not there" in out) == waits
        ended.append(waits)
    assert ended == [True, False, False]
    assert {one.spec.method for one in Store(tmp_path / "out").read()[0] if one.role == "student"} == {"kd", "ban"}
    code, out, _ = kdbench("fsck", "out")
    assert code == 0 and "0 foreign" in out
    code, out, _ = kdbench("status", "out")
    assert code == 0 and "2 done" in out and "nothing is to do" in out


def test_a_part_whose_only_run_is_a_teacher_that_fails_ends_with_exit_code_1(kdbench, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    plan = smoke("kd", seeds=1)
    (teacher,), (student,) = plan.teachers, plan.students
    owner = owners(plan, 2)
    assert owner[teacher.id] != owner[student.id]
    code, out, err = kdbench("run", "smoke", "--methods", "kd", "--seeds", "1", "--set", "recipe.epochs=2",
                             "--out", "out", "--shard", f"{owner[teacher.id]}/2", "--run-timeout", "0.001")
    assert (code, err) == (1, "") and "0 failed, 1 teacher failed, 0 not applicable" in out
