"""A function called in a process of its own, and the results of processes that could not write theirs."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from support.matrices import job, smoke

from kdbench.errors import UserError, unknown
from kdbench.execution.executor import Order
from kdbench.execution.matrix import Training
from kdbench.execution.pool import END, TRIES, LocalPool
from kdbench.results.record import Record
from kdbench.results.store import Store

HERE = "support.calls"


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    pool = LocalPool(1)
    pool.start()
    return pool


def test_a_call_gives_what_the_function_returns_in_another_process_and_in_this_folder(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pid, folder, doubled = pool.call(f"{HERE}:where", 21)
    assert pid != os.getpid() and folder == str(tmp_path) and doubled == 42


def test_a_user_error_is_raised_as_it_was_there_and_any_other_with_its_traceback(pool):
    with pytest.raises(UserError) as error:
        pool.call(f"{HERE}:mistaken", "kdd")
    assert str(error.value) == str(unknown("method", "kdd", ["kd"]))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        pool.call(f"{HERE}:broken")


def test_a_call_whose_process_dies_says_how(pool):
    with pytest.raises(UserError, match="killed by SIGKILL"):
        pool.call(f"{HERE}:killed")


def test_processes_collect_their_own_garbage_and_leave_what_was_imported_alone(pool):
    enabled, left_alone = pool.call(f"{HERE}:collector")
    assert enabled and left_alone > 100_000  # torch and timm alone are more


def test_processes_do_not_run_the_script_that_starts_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from kdbench.execution.pool import LocalPool\nprint('once')\npool = LocalPool(1)\npool.start()\n"
                      f"print(pool.call('{HERE}:where', 21)[2])\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("once\n42\n", 0), found.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_that_could_not_write_its_record_gets_one_with_its_device_and_family(tmp_path, cache, device):
    this = job(smoke("kd", device=device), tmp_path, cache, "kd")
    failed = Training().fail(this, "timeout", "stopped after 1 second")
    assert isinstance(failed, Record) and Store(tmp_path).get(this.id) == failed
    assert (failed.environment["device"], failed.family, failed.role) == (device, "logit", "student")
    assert (failed.status, failed.reason, failed.seconds) == ("timeout", "stopped after 1 second", 0.0)


@pytest.mark.parametrize("times", [TRIES - 1, TRIES])
def test_a_fork_server_that_is_killed_while_it_forks_is_started_again_a_few_times(pool, monkeypatch, times):
    start, failures = pool._context.Process.start, iter([EOFError] * times)

    def fails_first(process):
        if error := next(failures, None):
            raise error
        start(process)

    monkeypatch.setattr(pool._context.Process, "start", fails_first)
    if times < TRIES:
        assert pool.call(f"{HERE}:where", 21)[2] == 42
    else:
        with pytest.raises(UserError, match="no process can be started"):
            pool.call(f"{HERE}:where", 21)


@dataclass
class Waiting:
    """A task of which the order matters."""

    id: str
    seconds: float | None
    needed: tuple[str, ...] = ()

    def teachers(self):
        return self.needed


def test_tasks_begin_in_their_order_but_of_the_last_ones_the_longest_first():
    last = [Waiting("short", 1.0), Waiting("unknown", None), Waiting("long", 9.0), Waiting("needy", 99.0, ("short",)),
            Waiting("longer", 10.0), *(Waiting(f"more{n}", 5.0) for n in range(2 * END - 5))]
    pool = LocalPool(2, estimate=lambda job: job.seconds)
    assert [job.id for job in pool._next(Order(last), 2)] == ["longer", "long"]
    assert pool._next(Order(last), 0) == []
    assert [job.id for job in LocalPool(2)._next(Order(last), 2)] == ["short", "unknown"]  # where nothing is known
    earlier = [Waiting("first", 1.0), Waiting("second", 2.0, ("long",)), Waiting("third", 3.0)]
    assert [job.id for job in pool._next(Order([*earlier, *last]), 2)] == ["first", "third"]


def test_what_a_record_says_of_the_machine_is_looked_up_once_for_all_processes(pool):
    assert pool.call(f"{HERE}:looked_up") == 1
