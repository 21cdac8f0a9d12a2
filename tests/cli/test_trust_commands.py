"""The commands that say whether a folder of results can be trusted."""

import msgspec
import pytest
from support.matrices import job, smoke, teacher_job
from support.records import planned, record, spec

from kdbench.results.store import Store
from kdbench.train.worker import run_job


@pytest.fixture
def trained(tmp_path, cache):
    """A finished run of the smoke suite, without a record of its teacher."""
    run_job(teacher_job(smoke("kd"), cache))
    return Store(tmp_path / "runs"), run_job(job(smoke("kd"), tmp_path / "runs", cache, "kd")).run_id


def test_fsck_prints_a_line_for_each_finding_and_a_count(kdbench, tmp_path):
    store, run = Store(tmp_path / "runs"), spec("kd")
    store.write(record(spec("ce"), status="crashed", reason="no"))
    store.plan([planned(run)])
    (store.folder / "a\x1b[31mb").touch()
    code, out, _ = kdbench("fsck", "runs")
    lines = out.splitlines()
    assert code == 1 and len(lines) == 4
    assert lines[0].startswith(f"missing    runs/records/{run.id}.json: planned student kd")
    assert lines[0].endswith("; a rerun trains it") and "teacher" in lines[1]
    assert lines[2] == "foreign    runs/a\\x1b[31mb: kdbench writes no such name; a rerun leaves it as it is"
    assert lines[3] == "1 records: 0 damaged, 2 missing, 0 newer, 0 orphaned, 1 foreign, 0 temporary"


def test_fsck_repairs_on_request_and_says_what_it_did(kdbench, trained):
    store, run = trained
    with store.files.student(run).open("ab") as file:
        file.write(b"x")
    assert kdbench("fsck", "runs")[1].startswith(f"damaged    runs/students/{run}.safetensors: its SHA-256 is not")
    assert store.files.student(run).exists()
    code, out, _ = kdbench("fsck", "runs", "--repair")
    assert code == 1 and f"; set aside as {run}.safetensors.corrupt-1, a rerun trains the run again" in out
    assert "1 files set aside or removed" in out.splitlines()[-1]
    assert "0 damaged" in kdbench("fsck", "runs")[1]


@pytest.mark.parametrize("command", ["fsck", "verify"])
def test_a_folder_that_is_not_there_is_one_line_and_exit_code_2(kdbench, tmp_path, command):
    code, out, err = kdbench(command, "absent")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1 and "absent" in err
    assert not (tmp_path / "absent").exists()


def test_verify_exits_with_0_for_equal_bits_and_1_for_a_record_that_was_tampered_with(kdbench, trained):
    store, run = trained
    code, out, _ = kdbench("verify", "runs", "--workers", 1)
    assert code == 0 and f"bit-equal       {run}  kd  tiny  synthetic  seed 0" in out
    assert out.splitlines()[-1].startswith("1 runs repeated: 1 bit-equal, 0 within noise")
    true = store.get(run)
    store.write(msgspec.structs.replace(true, weights_sha256="0" * 64))
    assert kdbench("fsck", "runs")[0] == 1
    code, out, _ = kdbench("verify", "runs", run[:8])
    assert code == 1 and f"different       {run}" in out and "weights differ" in out
    store.write(msgspec.structs.replace(true, weights_sha256="0" * 64, environment={"cpu": "another"}))
    code, out, _ = kdbench("verify", "runs", run)
    assert code == 3 and f"not comparable  {run}" in out and "cpu another -> " in out


def test_verify_of_an_unknown_run_or_without_a_finished_one_is_one_line_and_exit_code_2(kdbench, tmp_path):
    Store(tmp_path / "runs").write(record(spec("ce"), status="crashed", reason="no"))
    code, out, err = kdbench("verify", "runs")
    assert (code, out) == (2, "") and "no finished runs here" in err and len(err.splitlines()) == 1
    Store(tmp_path / "runs").write(record(spec("kd"), .5))
    code, out, err = kdbench("verify", "runs", "nothing")
    assert (code, out) == (2, "") and "no single run 'nothing' among 2" in err and len(err.splitlines()) == 1
