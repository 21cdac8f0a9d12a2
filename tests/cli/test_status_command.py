"""`kdbench status`: what it prints of folders whose runs are made up."""

import json

import pytest
from support.records import record, spec

from kdbench.cli import status as command
from kdbench.environment import now
from kdbench.execution.status import FolderState, RunState
from kdbench.results.store import Store
from kdbench.results.unfinished import Progress


def state(*runs, **changes):
    counts = {kind: sum(one.kind == kind for one in runs) for kind in {one.kind for one in runs}}
    fields = dict(folder="runs/my results", suites=("tiny",), tuning=False, runs=counts, teachers={}, stale={},
                  open=runs, workers=2, seconds_left=125.0, unknown=0, notes=())
    return FolderState(**{**fields, **changes})


def run_of(kind, seed=0, reason=None, told=None, method="kd"):
    return RunState.of(spec(method, seed), "student", kind, reason, told)


def test_the_text_says_of_each_kind_how_many_and_of_open_runs_where_and_why():
    told = Progress(12, 80, .5512, 100.0, "node7", 4711, now())
    text = command.status_to_text(state(
        run_of("running", 1, told=told), run_of("interrupted", 2, told=told),
        *(run_of("failed", seed, "crashed: oh") for seed in (3, 4)), run_of("failed", 5, "timeout"),
        runs={"done": 120, "running": 1, "interrupted": 1, "failed": 3, "stale": 5}, teachers={"done": 1, "missing": 2},
        stale={"rkd": 2, "at": 3}, unknown=4))
    lines = text.splitlines()
    assert lines[:7] == [
        "runs/my results: 130 runs of tiny", "  120 done", "    1 running", "    1 interrupted", "    3 failed",
        "    5 stale: the source of their method changed since (at 3, rkd 2)", "teachers: 1 done, 2 missing"]
    assert "    epoch 12 of 80, 55.1%, on node7 (4711) since" in text
    assert text.count("epoch 12 of 80, 55.1%, on node7 (4711)") == 2
    assert "  2 x crashed: oh\n    kd  big-small  digits  seed 3, 4\n  1 x timeout\n" in text
    assert "time left: about 2 min 05 s, 2 at a time, and 4 runs of which no record tells" in text
    assert "to go on: kdbench run tiny ... --out 'runs/my results' --retry failed" in lines
    assert "to redo stale runs: kdbench run tiny ... --out 'runs/my results' --retry stale" in lines
    assert max(map(len, lines)) <= 80


def test_long_and_hostile_reasons_fit_the_width_and_steer_no_terminal():
    text = command.status_to_text(state(run_of("failed", reason="crashed: \x1b[31m " + "x" * 300)))
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text


def test_many_failures_for_one_reason_take_few_lines():
    text = command.status_to_text(state(*(run_of("failed", 0, "oh", method=f"m{n}") for n in range(40))))
    assert len(text.splitlines()) < 20 and "40 x oh" in text and "and 35 more" in text


def test_without_anything_to_do_no_command_is_told():
    text = command.status_to_text(state(runs={"done": 3}, seconds_left=0.0))
    assert "nothing is to do" in text and "to go on" not in text


def test_the_command_ends_with_0_although_runs_failed_and_as_json_tells_all_of_them(kdbench, tmp_path):
    Store(tmp_path / "out").write(record(spec("kd"), status="crashed", reason="oh"))
    code, out, _ = kdbench("status", "out")
    assert code == 0 and "1 failed" in out and "1 x oh" in out
    code, out, _ = kdbench("status", "out", "--json", "--workers", "3")
    found = json.loads(out)
    assert (code, found["runs"], found["workers"]) == (0, {"failed": 1}, 3)
    assert [(one["role"], one["method"], one["kind"]) for one in found["open"]] == [
        ("teacher", "ce", "missing"), ("student", "kd", "failed")]


@pytest.mark.parametrize("folder", ["none", "."])
def test_a_folder_without_runs_is_one_line_and_exit_code_2(kdbench, folder):
    code, out, err = kdbench("status", folder)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_watching_tells_each_change_in_a_line_until_nothing_is_running(kdbench, tmp_path, monkeypatch):
    told = Progress(1, 2, .5, 1.0, "node7", 4711, now())
    looks = iter([state(run_of("running", told=told))] * 3 + [
        state(run_of("missing"), runs={"missing": 1, "done": 1}), state()])
    slept = []
    monkeypatch.setattr("kdbench.execution.status.Watcher.look", lambda self: next(looks))
    monkeypatch.setattr(command, "time", type("Time", (), {"sleep": slept.append}))
    code, out, _ = kdbench("status", "out", "--watch")
    lines = out.splitlines()
    assert code == 0 and slept == [command.REFRESH] * 3
    assert lines[0].startswith("1 running") and lines[1].startswith("1 done, 1 missing")
    assert lines[3] == "runs/my results: 2 runs of tiny"


def test_ctrl_c_ends_watching_with_130(kdbench, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    told = Progress(1, 2, .5, 1.0, "node7", 4711, now())
    monkeypatch.setattr("kdbench.execution.status.Watcher.look", lambda self: state(run_of("running", told=told)))
    monkeypatch.setattr(command, "time", type("Time", (), {"sleep": interrupt}))
    code, _, err = kdbench("status", "out", "--watch")
    assert code == 130 and "Traceback" not in err
