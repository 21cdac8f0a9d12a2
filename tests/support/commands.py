"""Command lines of kdbench in processes of their own, as the tests of clusters type them, and what comes of them."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from kdbench.disk import file_sha256
from kdbench.results.store import Store

# What a shell starts in the background would not hear Ctrl-C, and hands that on.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "


class Command:
    """A command line of kdbench in a process of its own, and what it printed so far."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE + "from kdbench.cli.main import main; main()", *map(str, words)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.printed = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.printed += line

    def wait(self, seconds=240):
        """Its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"not done after {seconds} s:\n{self.printed}")
        self.reader.join()
        return code

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.reader.join()


def locally(cache, *words):
    """The same command with processes on this machine and a cache of its own."""
    environment = {**os.environ, "KDBENCH_CACHE": str(cache)}
    subprocess.run([sys.executable, "-c", "from kdbench.cli.main import main; main()", *map(str, words)],
                   env=environment, check=True, capture_output=True)


def results(folder):
    """Of each run what came out of it: the status, the hashes of weights and predictions, all metrics and curves."""
    store = Store(folder)
    records, problems = store.read()
    assert not problems
    for one in records:
        assert file_sha256(store.files.predictions(one.run_id)) == one.predictions_sha256
    return {one.run_id: (one.role, one.status, one.weights_sha256, one.predictions_sha256, one.metrics, one.curves)
            for one in records}


def wait_until(condition, seconds, what):
    """Wait until the condition is true. The test fails if it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)
