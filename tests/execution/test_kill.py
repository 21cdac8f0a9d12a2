"""Killed at random moments and started again, a matrix ends as if nothing had happened."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from kdbench.results.store import Store

KILLS = 24
COMMAND = [Path(sys.executable).parent / "kdbench", "run", "smoke", "--methods", "ce,kd,dml", "--seeds", "2",
           "--set", "recipe.epochs=12"]


def start(out, cache):
    return psutil.Popen([*COMMAND, "--out", out], env={"KDBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def hashes(out):
    return {r.run_id: r.weights_sha256 for r in Store(out).read()[0]}


def workers(parent):
    """The forks of the fork server: one per run in progress."""
    try:
        return [worker for server in parent.children() for worker in server.children()]
    except psutil.NoSuchProcess:
        return []


def wait_for_workers(parent, seconds=120):
    end = time.monotonic() + seconds
    while parent.poll() is None and not workers(parent) and time.monotonic() < end:
        time.sleep(0.05)


class Watcher(threading.Thread):
    """Reads the records all the while; none may ever be half there."""

    def __init__(self, out):
        super().__init__(daemon=True)
        self.out, self.problems, self.reads, self.stop = out, [], 0, False

    def run(self):
        while not self.stop:
            self.problems += Store(self.out).read()[1]
            self.reads += 1
            time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_random_moments_and_started_again_a_matrix_ends_with_the_same_weights(tmp_path):
    undisturbed = start(tmp_path / "whole", tmp_path / "cache0")
    assert undisturbed.wait(300) == 0
    expected = hashes(tmp_path / "whole")
    assert len(expected) == 7

    chance = random.Random(0)
    rounds = 0
    out, cache = tmp_path / "out0", tmp_path / "round0"
    watcher = Watcher(out)
    watcher.start()
    killed = {"parent": 0, "worker": 0}
    process = start(out, cache)
    while sum(killed.values()) < KILLS:
        wait_for_workers(process)
        time.sleep(chance.uniform(0, 2))
        running = workers(process)
        if process.poll() is not None or not running:
            if process.poll() == 0:  # it finished under fire: compare, and start from nothing
                assert hashes(out) == expected
                rounds += 1
                out, cache = tmp_path / f"out{rounds}", tmp_path / f"round{rounds}"
                watcher.out = out
            if process.poll() is not None:
                process = start(out, cache)
            continue
        if chance.random() < 0.5:
            chance.choice(running).kill()
            killed["worker"] += 1
        else:
            process.kill()
            process.wait()
            killed["parent"] += 1
            _, alive = psutil.wait_procs(running, timeout=20)
            assert alive == [], "workers outlived their parent"
            process = start(out, cache)
    process.wait(300)
    last = start(out, cache)
    assert last.wait(300) == 0, last.stderr.read()
    watcher.stop = True
    watcher.join()
    assert min(killed.values()) >= 5 and watcher.reads > 100
    assert watcher.problems == []
    assert hashes(out) == expected
